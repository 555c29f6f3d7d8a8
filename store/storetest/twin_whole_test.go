package storetest_test

import (
	"context"
	"iter"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

func (w *twin) Export(ctx context.Context) (store.Export, error) {
	e, err := w.Log.Export(ctx)
	if err != nil || w.export == nil {
		return e, err
	}
	return w.export(w.Log, e), nil
}

func (w *twin) Import(ctx context.Context, from store.Origin) (store.Import, error) {
	in, err := w.Log.Import(ctx, from)
	if err != nil || w.fill == nil {
		return in, err
	}
	return w.fill(in), nil
}

// An exportTwin is an export that returns other records.
type exportTwin struct {
	store.Export
	records func(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error]
}

func (e exportTwin) Records(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error] {
	return e.records(ctx, s)
}

// An importTwin is an import that changes its records or the result of Close.
type importTwin struct {
	store.Import
	change func(store.Record) store.Record
	close  func() error
}

func (in importTwin) Add(ctx context.Context, records ...store.Record) error {
	if in.change == nil {
		return in.Import.Add(ctx, records...)
	}
	var changed []store.Record
	for _, r := range records {
		if r = in.change(r); r != nil {
			changed = append(changed, r)
		}
	}
	return in.Import.Add(ctx, changed...)
}

func (in importTwin) Close() error {
	if in.close == nil {
		return in.Import.Close()
	}
	return in.close()
}

// leavesOut returns a store whose export omits every second record of a sort.
func leavesOut(s store.RecordKind, caught ...string) spoiled {
	return spoiled{"does not export every second " + s.String(), func(w *twin) {
		w.export = func(_ *memory.Log, e store.Export) store.Export {
			return exportTwin{e, func(ctx context.Context, of store.RecordKind) iter.Seq2[store.Record, error] {
				return func(yield func(store.Record, error) bool) {
					n := 0
					for r, err := range e.Records(ctx, of) {
						if n++; of == s && n%2 == 0 {
							continue
						}
						if !yield(r, err) {
							return
						}
					}
				}
			}}
		}
	}, append(caught, "an export holds every record in its order")}
}

const (
	wholeCase = "a whole log has no faults"
	copyCase  = "a copy has everything as it was"
)

// wholeTwins are mutants that break the methods for whole logs.
var wholeTwins = []spoiled{
	leavesOut(store.KindEvent, wholeCase, copyCase),
	leavesOut(store.KindVersion, wholeCase),
	leavesOut(store.KindState, wholeCase, copyCase),
	leavesOut(store.KindMessage, wholeCase, copyCase),
	leavesOut(store.KindReceipt, copyCase),
	leavesOut(store.KindClaim, copyCase),
	leavesOut(store.KindCheckpoint, copyCase),

	{"exports a log that moves", func(w *twin) {
		w.export = func(l *memory.Log, e store.Export) store.Export {
			return exportTwin{e, func(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error] {
				later, err := l.Export(ctx)
				if err != nil {
					later = e
				}
				return later.Records(ctx, s)
			}}
		}
	}, []string{"an export is of one moment"}},

	{"ends an export at a damaged record as if it were the last", func(w *twin) {
		w.export = func(_ *memory.Log, e store.Export) store.Export {
			return exportTwin{e, func(ctx context.Context, s store.RecordKind) iter.Seq2[store.Record, error] {
				return func(yield func(store.Record, error) bool) {
					for r, err := range e.Records(ctx, s) {
						if err != nil || !yield(r, nil) {
							return
						}
					}
				}
			}}
		}
	}, []string{"an export goes on behind damaged records", "every damaged record is found", "a copy of a damaged log has the rest, and the damage in its place"}},

	{"gives imported events ids of its own", func(w *twin) {
		w.fill = func(in store.Import) store.Import {
			return importTwin{Import: in, change: func(r store.Record) store.Record {
				if e, ok := r.(*store.Event); ok {
					e.ID[3]++
				}
				return r
			}}
		}
	}, []string{copyCase}},

	{"forgets half of the receipts at import", func(w *twin) {
		n := 0
		w.fill = func(in store.Import) store.Import {
			return importTwin{Import: in, change: func(r store.Record) store.Record {
				if _, ok := r.(*store.Receipt); ok {
					if n++; n%2 == 0 {
						return nil
					}
				}
				return r
			}}
		}
	}, []string{copyCase}},

	{"takes an import that is broken off as finished", func(w *twin) {
		w.fill = func(in store.Import) store.Import {
			return importTwin{Import: in, close: func() error { return in.Finish(context.Background()) }}
		}
	}, []string{"an import that is broken off leaves a log that answers nothing"}},
}
