package pgtest

// Leave sets the number of finished tests' databases that the cluster keeps.
func (s *Server) Leave(most int) { s.leftMax = most }
