package crashtest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/perdure/perdure/store"
	"github.com/perdure/perdure/store/memory"
)

// A flaw is a promise that a toy breaks.
type flaw int

const (
	sound        flaw = iota
	unsynced          // it never syncs
	buffered          // it keeps frames in memory for a while
	retrying          // it syncs again after a sync has failed
	forgetful         // it continues after a sync has failed
	sure              // it says "not stored" of every error
	trusting          // it checks no checksums
	fragile           // it panics when it finds damage
	halfReplayed      // it makes nothing durable when it opens
)

// A toy is a small durable log that is simple enough to be correct: it keeps each group as a
// frame in one file, and replays the frames in memory when it opens. While the log is closed,
// a second file has a note of the length and the checksum of the first one.
type toy struct {
	*memory.Log
	flaw   flaw
	mu     sync.Mutex
	path   string
	f      *os.File
	size   int64
	held   []byte // frames that a buffered toy has not written
	broken error
}

func frame(group []*store.Batch) ([]byte, error) {
	b, err := json.Marshal(group)
	if err != nil {
		return nil, err
	}
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
	return append(binary.LittleEndian.AppendUint32(head, crc32.ChecksumIEEE(b)), b...), nil
}

// openToy opens the toy in a directory.
func openToy(place string, how flaw) (store.Log, error) {
	clock := func() time.Time { return time.Unix(1, 0) }
	l := &toy{Log: memory.New(memory.WithClock(clock), memory.Shared()), flaw: how, path: filepath.Join(place, "toy.log")}
	whole, err := os.ReadFile(l.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if whole, err = l.check(whole); err != nil {
		return nil, err
	}
	n, err := l.replay(whole)
	if err != nil {
		return nil, err
	}
	if l.flaw == halfReplayed {
		l.f, err = os.OpenFile(l.path, os.O_CREATE|os.O_RDWR, 0o600)
		if err == nil {
			err = l.f.Truncate(n)
		}
		l.size = n
		return l, err
	}
	return l, l.renew(whole[:n])
}

func (l *toy) notePath() string { return l.path + ".closed" }

// check compares the file with the note of the last Close, if there is a note.
func (l *toy) check(whole []byte) ([]byte, error) {
	note, err := os.ReadFile(l.notePath())
	if errors.Is(err, os.ErrNotExist) {
		return whole, nil
	}
	if err != nil {
		return nil, err
	}
	if want := l.note(whole); !bytes.Equal(note, want) && l.flaw != trusting {
		if l.flaw == fragile {
			panic("damage")
		}
		return nil, &store.CorruptError{What: "file", Where: l.path, Reason: "it is not what was closed"}
	}
	// The note is removed: after the next write it would not match the file.
	return whole, errors.Join(os.Remove(l.notePath()), syncDir(filepath.Dir(l.path)))
}

func (l *toy) note(whole []byte) []byte {
	return fmt.Appendf(nil, "%d %08x", len(whole), crc32.ChecksumIEEE(whole))
}

// replay commits all whole frames and returns where they end.
func (l *toy) replay(whole []byte) (n int64, err error) {
	for rest := whole; len(rest) >= 8; {
		size, sum := binary.LittleEndian.Uint32(rest), binary.LittleEndian.Uint32(rest[4:])
		if size == 0 || uint64(len(rest)) < 8+uint64(size) {
			break
		}
		b := rest[8 : 8+size]
		if l.flaw != trusting && crc32.ChecksumIEEE(b) != sum {
			break // end of the complete frames
		}
		var group []*store.Batch
		if err := json.Unmarshal(b, &group); err != nil {
			return 0, &store.CorruptError{What: "frame", Where: l.path, Reason: err.Error()}
		}
		if _, err := l.Log.Commit(context.Background(), group); err != nil {
			return 0, err
		}
		n += 8 + int64(size)
		rest = rest[8+size:]
	}
	return n, nil
}

// renew writes the file again, so that everything replayed is durable.
func (l *toy) renew(whole []byte) (err error) {
	name := l.path + ".new"
	if l.f, err = os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if _, err = l.f.Write(whole); err != nil {
		return err
	}
	l.size = int64(len(whole))
	if err := l.sync(); err != nil {
		return err
	}
	return rename(name, l.path)
}

func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (l *toy) sync() error {
	if l.flaw == unsynced {
		return nil
	}
	err := l.f.Sync()
	if err != nil && l.flaw == retrying {
		err = l.f.Sync()
	}
	return err
}

// Commit implements [store.Log].
func (l *toy) Commit(ctx context.Context, group []*store.Batch) ([]store.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return nil, errors.Join(store.ErrBroken, store.ErrNotStored, l.broken)
	}
	b, err := frame(group)
	if err != nil {
		return nil, errors.Join(store.ErrNotStored, err)
	}
	if err := l.write(b); err != nil {
		if l.flaw == sure {
			return nil, errors.Join(store.ErrNotStored, err)
		}
		if l.flaw != forgetful {
			l.broken = err
		}
		return nil, err
	}
	return l.Log.Commit(ctx, group)
}

// heldMax bounds the bytes that a buffered toy keeps in memory.
const heldMax = 50 << 10

func (l *toy) write(b []byte) error {
	if l.flaw == buffered {
		if l.held = append(l.held, b...); len(l.held) < heldMax {
			return nil
		}
		b, l.held = l.held, nil
	}
	if _, err := l.f.WriteAt(b, l.size); err != nil {
		return err
	}
	l.size += int64(len(b))
	return l.sync()
}

// Close implements [store.Log].
func (l *toy) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := errors.Join(l.Log.Close(), l.f.Close())
	if err != nil || l.broken != nil {
		return err
	}
	whole, err := os.ReadFile(l.path)
	if err != nil {
		return err
	}
	name := l.notePath() + ".new"
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(l.note(whole))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return rename(name, l.notePath())
}
