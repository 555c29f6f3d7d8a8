package pgtest

// Leave sets how many databases stay that tests are done with.
func (s *Server) Leave(most int) { s.leftMax = most }
