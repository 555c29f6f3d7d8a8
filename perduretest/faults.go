package perduretest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"sync"

	"github.com/perdure/perdure/store"
)

// A Method names a method of [store.Log].
type Method string

// The methods that faults can be injected into.
const (
	MethodCommit          Method = "Commit"
	MethodLoad            Method = "Load"
	MethodRead            Method = "Read"
	MethodScan            Method = "Scan"
	MethodHeads           Method = "Heads"
	MethodClose           Method = "Close"
	MethodAcquire         Method = "Acquire"
	MethodKinds           Method = "Kinds"
	MethodEntities        Method = "Entities"
	MethodDeleteEvents    Method = "DeleteEvents"
	MethodDeleteSnapshots Method = "DeleteSnapshots"
	MethodDeleted         Method = "Deleted"
	MethodMessages        Method = "Messages" // and Undelivered
	MethodReceipt         Method = "Receipt"
	MethodReceipts        Method = "Receipts" // and ReceiptHeads
	MethodOwner           Method = "Owner"
	MethodClaims          Method = "Claims"
	MethodCheckpoints     Method = "Checkpoints"
	MethodStats           Method = "Stats"
	MethodExport          Method = "Export"
	MethodImport          Method = "Import"
	MethodVerifyFiles     Method = "VerifyFiles"
)

// Faults makes the methods of a store fail where and how a test wants it. The store under
// it is a real one: a call without a fault works as usual, and the records that a failed
// commit has stored can be read.
//
//	faults := perduretest.NewFaults(memory.New())
//	engine, err := perdure.Open(ctx, perdure.Config{Store: faults.Log(), …})
//	faults.Next(perduretest.MethodCommit, perduretest.FailAfter(nil))
//
// Several goroutines may call its methods at the same time, also while the log is in use.
type Faults struct {
	log store.Log

	mu       sync.Mutex
	script   map[Method][]Fault
	hook     func(*Call) Fault
	calls    map[Method]int
	injected map[Injection]int
}

// An Injection is a sort of fault in a method, for counting.
type Injection struct {
	Method Method
	// Fault is the name of the function that made the fault, such as "FailAfter".
	Fault string
}

// A Call is a call of a method of the store. A hook chooses its fault.
type Call struct {
	Method Method
	// Number counts the calls of the method, from 1.
	Number int
	// Group is the argument of Commit. It must not be changed.
	Group []*store.Batch
}

// NewFaults returns a Faults for a log, without any fault yet.
func NewFaults(log store.Log) *Faults {
	return &Faults{
		log: log, script: make(map[Method][]Fault),
		calls: make(map[Method]int), injected: make(map[Injection]int),
	}
}

// Log returns the log with the faults.
//
// It has no abilities beyond those of every [store.Log]. So it is never a
// [store.Synchronous], because a fault can delay a commit.
func (f *Faults) Log() store.Log { return &faultyLog{faults: f, log: f.log} }

// Next makes the next calls of a method fail, one fault for each, after the faults that
// earlier calls of Next have set. [Pass] in the list lets one call succeed.
func (f *Faults) Next(m Method, faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script[m] = append(f.script[m], faults...)
}

// Hook makes hook choose the fault of every call for which [Faults.Next] has set none. It
// replaces the hook before it; nil removes it. Hook is called for one call at a time, and
// must not call a method of f.
func (f *Faults) Hook(hook func(*Call) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// Rates are the probabilities of the faults of [Faults.Random], each from 0 to 1, and 1 at
// most in sum. The remaining calls succeed.
type Rates struct {
	// Rates for each Commit.
	NotStored, FailBefore, FailAfter, PanicBefore, PanicAfter, Conflict, WrongResults float64
	// Rates for each call of every other method but Close and Acquire.
	ReadFailBefore, ReadFailAfter float64
}

// Random sets a [Faults.Hook] that draws faults at random. The same seed draws the same
// faults for the same calls in the same order.
func (f *Faults) Random(seed uint64, rates Rates) {
	random := rand.New(rand.NewPCG(seed, 0))
	f.Hook(func(c *Call) Fault {
		type chance struct {
			rate  float64
			fault Fault
		}
		chances := []chance{{rates.ReadFailBefore, FailBefore(nil)}, {rates.ReadFailAfter, FailAfter(nil)}}
		switch c.Method {
		case MethodClose, MethodAcquire:
			return Pass()
		case MethodCommit:
			chances = []chance{
				{rates.NotStored, NotStored()},
				{rates.FailBefore, FailBefore(nil)},
				{rates.FailAfter, FailAfter(nil)},
				{rates.PanicBefore, PanicBefore(ErrInjected)},
				{rates.PanicAfter, PanicAfter(ErrInjected)},
				{rates.Conflict, Conflict()},
				{rates.WrongResults, WrongResults(len(c.Group) + 1)},
			}
		}
		x := random.Float64()
		for _, c := range chances {
			if x -= c.rate; x < 0 {
				return c.fault
			}
		}
		return Pass()
	})
}

// Clear removes the hook and all faults that have not occurred yet.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.script)
	f.hook = nil
}

// Calls returns the number of calls of a method.
func (f *Faults) Calls(m Method) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[m]
}

// Injected returns the number of faults that occurred, by method and sort.
func (f *Faults) Injected() map[Injection]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.injected)
}

// take counts a call and returns its fault.
func (f *Faults) take(m Method, group []*store.Batch) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[m]++
	fault := Pass()
	switch {
	case len(f.script[m]) > 0:
		fault = f.script[m][0]
		f.script[m] = f.script[m][1:]
	case f.hook != nil:
		fault = f.hook(&Call{Method: m, Number: f.calls[m], Group: group})
	}
	if fault.name != "" {
		f.injected[Injection{m, fault.name}]++
	}
	return fault
}

// A faultyLog is a log with faults, with the methods that every log has.
type faultyLog struct {
	faults *Faults
	log    store.Log
}

// begin takes the fault of a call and applies the part of it that comes before the call.
func (l *faultyLog) begin(ctx context.Context, m Method) (Fault, error) {
	fault := l.faults.take(m, nil)
	if err := fault.hold(ctx); err != nil {
		return fault, err
	}
	return fault, fault.strike()
}

// Commit is part of [store.Log].
func (l *faultyLog) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	fault := l.faults.take(MethodCommit, group)
	if err := fault.hold(ctx); err != nil {
		return nil, fmt.Errorf("commit: %w: %w", store.ErrNotStored, err)
	}
	if err := fault.strike(); err != nil {
		return nil, err
	}
	if fault.conflict {
		if err := l.overtake(ctx, group, fault.messages); err != nil {
			return nil, err
		}
	}
	results, err := l.log.Commit(ctx, group)
	if err == nil && fault.wrong {
		results = append(results, make([]store.Result, max(0, fault.results-len(results)))...)[:fault.results]
	}
	return results, fault.end(err)
}

// Load is part of [store.Log].
func (l *faultyLog) Load(ctx context.Context, key store.Key, accept func(*store.State) bool) iter.Seq2[*store.Event, error] {
	return faulty(ctx, l, MethodLoad, l.log.Load(ctx, key, accept))
}

// Read is part of [store.Log].
func (l *faultyLog) Read(ctx context.Context, key store.Key, after store.Version) iter.Seq2[*store.Event, error] {
	return faulty(ctx, l, MethodRead, l.log.Read(ctx, key, after))
}

// Scan is part of [store.Log].
func (l *faultyLog) Scan(ctx context.Context, q store.Query) iter.Seq2[*store.Event, error] {
	return faulty(ctx, l, MethodScan, l.log.Scan(ctx, q))
}

// Heads is part of [store.Log].
func (l *faultyLog) Heads(ctx context.Context) ([]store.Position, error) {
	return called(ctx, l, MethodHeads, l.log.Heads)
}

// Close is part of [store.Log].
func (l *faultyLog) Close() error {
	fault, err := l.begin(context.Background(), MethodClose)
	if err != nil {
		return err
	}
	return fault.end(l.log.Close())
}

// Acquire is part of [store.Exclusive].
func (l *faultyLog) Acquire() (release func(), err error) {
	fault, err := l.begin(context.Background(), MethodAcquire)
	if err != nil {
		return nil, err
	}
	release, err = l.log.Acquire()
	if failed := fault.end(err); failed != nil {
		if err == nil {
			release()
		}
		return nil, failed
	}
	return release, nil
}

// Kinds is part of [store.Catalog].
func (l *faultyLog) Kinds(ctx context.Context) ([]string, error) {
	return called(ctx, l, MethodKinds, l.log.Kinds)
}

// Entities is part of [store.Catalog].
func (l *faultyLog) Entities(ctx context.Context, kind, after string) iter.Seq2[store.Entity, error] {
	return faulty(ctx, l, MethodEntities, l.log.Entities(ctx, kind, after))
}

// DeleteEvents is part of [store.Pruner].
func (l *faultyLog) DeleteEvents(ctx context.Context, key store.Key, below store.Version, through store.Position) (int, error) {
	return called(ctx, l, MethodDeleteEvents, func(ctx context.Context) (int, error) {
		return l.log.DeleteEvents(ctx, key, below, through)
	})
}

// DeleteSnapshots is part of [store.Pruner].
func (l *faultyLog) DeleteSnapshots(ctx context.Context, key store.Key, below store.Version) (int, error) {
	return called(ctx, l, MethodDeleteSnapshots, func(ctx context.Context) (int, error) {
		return l.log.DeleteSnapshots(ctx, key, below)
	})
}

// Deleted is part of [store.Pruner].
func (l *faultyLog) Deleted(ctx context.Context) ([]store.Deletion, error) {
	return called(ctx, l, MethodDeleted, l.log.Deleted)
}

// Messages is part of [store.Outbox].
func (l *faultyLog) Messages(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	return faulty(ctx, l, MethodMessages, l.log.Messages(ctx, q))
}

// Undelivered is part of [store.Outbox].
func (l *faultyLog) Undelivered(ctx context.Context, q store.MessageQuery) iter.Seq2[*store.Message, error] {
	return faulty(ctx, l, MethodMessages, l.log.Undelivered(ctx, q))
}

// Receipt is part of [store.Receipts].
func (l *faultyLog) Receipt(ctx context.Context, key store.Key, name string) (*store.Receipt, error) {
	return called(ctx, l, MethodReceipt, func(ctx context.Context) (*store.Receipt, error) {
		return l.log.Receipt(ctx, key, name)
	})
}

// Receipts is part of [store.Receipts].
func (l *faultyLog) Receipts(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return faulty(ctx, l, MethodReceipts, l.log.Receipts(ctx, key))
}

// ReceiptHeads is part of [store.Receipts].
func (l *faultyLog) ReceiptHeads(ctx context.Context, key store.Key) iter.Seq2[*store.Receipt, error] {
	return faulty(ctx, l, MethodReceipts, l.log.ReceiptHeads(ctx, key))
}

// Owner is part of [store.Claims].
func (l *faultyLog) Owner(ctx context.Context, c store.Claim) (store.Key, error) {
	return called(ctx, l, MethodOwner, func(ctx context.Context) (store.Key, error) {
		return l.log.Owner(ctx, c)
	})
}

// Claims is part of [store.Claims].
func (l *faultyLog) Claims(ctx context.Context, space string) iter.Seq2[store.Claimed, error] {
	return faulty(ctx, l, MethodClaims, l.log.Claims(ctx, space))
}

// Checkpoints is part of [store.Checkpoints].
func (l *faultyLog) Checkpoints(ctx context.Context) ([]store.Checkpoint, error) {
	return called(ctx, l, MethodCheckpoints, l.log.Checkpoints)
}

// Stats is part of [store.StatsReader].
func (l *faultyLog) Stats(ctx context.Context) (store.Stats, error) {
	return called(ctx, l, MethodStats, l.log.Stats)
}

// Export is part of [store.Exporter].
func (l *faultyLog) Export(ctx context.Context) (store.Export, error) {
	return opening(ctx, l, MethodExport, l.log.Export)
}

// Import is part of [store.Importer].
func (l *faultyLog) Import(ctx context.Context, from store.Origin) (store.Import, error) {
	return opening(ctx, l, MethodImport, func(ctx context.Context) (store.Import, error) { return l.log.Import(ctx, from) })
}

// VerifyFiles is part of [store.Verifier].
func (l *faultyLog) VerifyFiles(ctx context.Context, report func(error)) error {
	fault, err := l.begin(ctx, MethodVerifyFiles)
	if err != nil {
		return err
	}
	return fault.end(l.log.VerifyFiles(ctx, report))
}

// opening is called for a method that returns a value to be closed. It closes the value if the
// fault hides it from the caller.
func opening[T io.Closer](ctx context.Context, l *faultyLog, m Method, call func(context.Context) (T, error)) (T, error) {
	var opened io.Closer
	value, err := called(ctx, l, m, func(ctx context.Context) (T, error) {
		v, err := call(ctx)
		if err == nil {
			opened = v
		}
		return v, err
	})
	if err != nil && opened != nil {
		err = errors.Join(err, opened.Close())
	}
	return value, err
}

// called calls a method that returns one value, with its fault.
func called[T any](ctx context.Context, l *faultyLog, m Method, call func(context.Context) (T, error)) (T, error) {
	var zero T
	fault, err := l.begin(ctx, m)
	if err != nil {
		return zero, err
	}
	value, err := call(ctx)
	if err := fault.end(err); err != nil {
		return zero, err
	}
	return value, nil
}

// faulty returns an iteration with a fault, which it takes when it begins.
func faulty[T any](ctx context.Context, l *faultyLog, m Method, values iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var zero T
		fault, err := l.begin(ctx, m)
		if err != nil {
			yield(zero, err)
			return
		}
		for v, err := range values {
			if !yield(v, err) || err != nil {
				return
			}
		}
		if err := fault.end(nil); err != nil {
			yield(zero, err)
		}
	}
}
