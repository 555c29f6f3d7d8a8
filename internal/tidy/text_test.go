package tidy_test

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"testing"
)

// stray lists forbidden texts with the reasons. The patterns are put together from parts so
// that they do not match themselves.
var stray = []struct {
	what    string
	pattern *regexp.Regexp
}{
	{"a left-over mark", regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)},
	{"a path of one machine", regexp.MustCompile(`(^|[\s"'` + "`" + `(=:])/(home|ro` + `ot|work|workspace|Users)/[\w.-]`)},
	{"a host of one network", regexp.MustCompile(`(^|[\s"'=/@])(proxy|goproxy|sum|registry|mirrors?|artifactory|nexus)(\.[a-z0-9-]+)+\.(com|org|net|io|dev|cloud)\b|//[\w.-]+\.(internal|intranet|corp|lan)\b`)},
	{"a setting of one network", regexp.MustCompile(`\bGO(PROXY|SUMDB|NOSUMDB|PRIVATE|INSECURE)=`)},
	{"a merge that was not finished", regexp.MustCompile(`^(<{7}|>{7}) `)},
	{"a space at the end of the line", regexp.MustCompile(`[ \t]+\r?$`)},
}

func TestTextIsTidy(t *testing.T) {
	t.Parallel()
	var faults []string
	for _, f := range files(t, func(name string) bool {
		return !strings.HasSuffix(name, ".sum") && !strings.HasSuffix(name, ".pb.go") && !isData(name)
	}) {
		faults = append(faults, textFaults(f)...)
	}
	report(t, faults)
}

func TestStrayTextIsFound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want []string
	}{
		{text: "// It is done: see https://go.dev/home/page and a/tmp/b.\n"},
		{text: "The sum of the internal parts, by proxy.\n"},
		{text: "s.registry.names.load(sum.total.net)\n"},
		{text: "a\n// TO" + "DO: later\n", want: []string{"x.go:2: a left-over mark"}},
		{text: `open("` + "/ho" + `me/ada/library.db")`, want: []string{"x.go:1: a path of one machine"}},
		{text: "cd " + "/wo" + "rk/perdure", want: []string{"a path of one machine"}},
		{text: "https://pro" + "xy.example.org/x", want: []string{"a host of one network"}},
		{text: "https://builds.cor" + "p/x", want: []string{"a host of one network"}},
		{text: "GOPRO" + "XY=off go build", want: []string{"a setting of one network"}},
		{text: "<<<<<<" + "< main", want: []string{"a merge"}},
		{text: "a \n", want: []string{"x.go:1: a space"}},
	} {
		wantFaults(t, c.text, textFaults(file{"x.go", c.text}), c.want...)
	}
}

// isData reports whether a file is the input of a test or a program. Such files are not
// checked.
func isData(name string) bool {
	return path.Ext(name) == ".csv" || path.Ext(name) == ".patch" || strings.Contains("/"+name, "/testdata/")
}

func textFaults(f file) []string {
	var faults []string
	number := 0
	for line := range strings.Lines(f.text) {
		number++
		for _, s := range stray {
			if found := s.pattern.FindString(strings.TrimSuffix(line, "\n")); found != "" {
				faults = append(faults, fmt.Sprintf("%s:%d: %s: %q", f.path, number, s.what, found))
			}
		}
	}
	return faults
}
