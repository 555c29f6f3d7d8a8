package open

// Parse reads a URI and returns its scheme and path.
func Parse(uri string) (scheme, path string, err error) {
	t, err := parse(uri)
	if err != nil {
		return "", "", err
	}
	return t.scheme, t.path, nil
}
