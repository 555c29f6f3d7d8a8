package postgres

type watch struct{}

func (w *watch) open(*Log) {}
func (w *watch) close()    {}

func (l *Log) announce(*plan) {}
