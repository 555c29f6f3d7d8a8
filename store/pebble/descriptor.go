package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/perdure/perdure/store"
)

// descriptorFile is the file that makes a directory a log. It holds the identity of the log,
// whether its creation has finished, and the progress of the log when the file was written.
//
// The file is always replaced as a whole: it is written under another name, synced and
// renamed, and then the directory is synced. So after a crash either the old file or the new
// one exists. It is the first file of a new log, in state creating. In that state nothing has
// been committed, and Open deletes the files of Pebble and begins again.
//
// The progress is the number of commits, and the name and length of Pebble's list of tables,
// the manifest. The descriptor is written only when both are durable, so an Open that finds less
// has found damage. Pebble itself takes a damaged manifest for one that ends at the damage,
// and forgets tables.
const (
	descriptorFile = "PERDURE"
	descriptorTemp = descriptorFile + ".tmp"
)

const (
	descriptorMagic = "perdure\x00"

	stateCreating = 0
	stateReady    = 1
)

// A logDescriptor is the content of descriptorFile.
type logDescriptor struct {
	info          store.LogInfo
	state         byte
	commits       uint64
	manifest      uint64 // number of the manifest, or 0 for none
	manifestBytes uint64
}

func (m *logDescriptor) append(dst []byte) []byte {
	from := len(dst)
	dst = append(dst, descriptorMagic...)
	dst = binary.BigEndian.AppendUint32(dst, formatVersion)
	dst = append(dst, m.state)
	for _, n := range []uint64{m.commits, m.manifest, m.manifestBytes} {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	return store.Seal(store.AppendLogInfo(dst, &m.info), from)
}

func (m *logDescriptor) read(v []byte) error {
	corrupt := func(reason string) error {
		return &store.CorruptError{What: "file", Where: descriptorFile, Reason: reason}
	}
	b, fault := store.Unseal(v)
	if fault != nil {
		return corrupt(fault.Error())
	}
	const head = len(descriptorMagic) + 4
	if !bytes.HasPrefix(b, []byte(descriptorMagic)) || len(b) < head {
		return corrupt("it does not say that it is a log's")
	}
	if n := binary.BigEndian.Uint32(b[len(descriptorMagic):]); n > formatVersion {
		return fmt.Errorf("%w: format %d, at most %d can be read", store.ErrFormat, n, formatVersion)
	}
	if b = b[head:]; len(b) < 1+3*8 {
		return corrupt(fmt.Sprintf("it has %d bytes", len(v)))
	}
	m.state = b[0]
	m.commits, m.manifest, m.manifestBytes = binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:]), binary.BigEndian.Uint64(b[17:])
	info, err := store.DecodeLogInfo(b[25:])
	if err != nil {
		return err
	}
	m.info = *info
	if n := m.info.Partitions; n < 1 || n > store.PartitionsMax {
		return corrupt(fmt.Sprintf("%d partitions", n))
	}
	return nil
}

// readDescriptor reads the descriptor of the directory. It returns nil if there is none.
func readDescriptor(files vfs.FS, dir string) (*logDescriptor, error) {
	v, err := readFile(files, files.PathJoin(dir, descriptorFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // a directory without one is the usual case of a new log
	}
	if err != nil {
		return nil, err
	}
	m := new(logDescriptor)
	return m, m.read(v)
}

// writeDescriptor replaces the descriptor of the directory.
func writeDescriptor(files vfs.FS, dir string, m *logDescriptor) error {
	temp := files.PathJoin(dir, descriptorTemp)
	f, err := files.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err = f.Write(m.append(nil)); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := files.Rename(temp, files.PathJoin(dir, descriptorFile)); err != nil {
		return err
	}
	return syncDir(files, dir)
}

// updateDescriptor writes the progress of the log to its descriptor. The caller must hold writing,
// and all commits must be durable.
func (l *Log) updateDescriptor(state byte) error {
	l.flushed.Store(false)
	m := &logDescriptor{info: l.info, state: state, commits: l.writer.durable.commits}
	err := m.measure(l.fs, l.dir)
	if err == nil {
		err = writeDescriptor(l.fs, l.dir, m)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", descriptorFile, err)
	}
	return nil
}

// measure makes the current manifest durable, and then records its number and the length of
// its intact part.
func (m *logDescriptor) measure(files vfs.FS, dir string) error {
	name, err := manifestName(files, dir)
	if err != nil {
		return err
	}
	path := files.PathJoin(dir, name)
	n, err := wholeBytes(files, path)
	if err != nil {
		return err
	}
	f, err := files.Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	m.manifest, _ = manifestNumber(name)
	m.manifestBytes = n
	return nil
}

// check compares the manifest of the directory with the descriptor.
func (m *logDescriptor) check(files vfs.FS, dir string) error {
	if m.manifest == 0 {
		return nil
	}
	name, err := manifestName(files, dir)
	if err != nil {
		return err
	}
	corrupt := func(reason string) error {
		return &store.CorruptError{What: "file", Where: name, Reason: reason}
	}
	number, ok := manifestNumber(name)
	if !ok || number < m.manifest {
		return corrupt(fmt.Sprintf("the list of tables was number %d already", m.manifest))
	}
	n, err := wholeBytes(files, files.PathJoin(dir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return corrupt("it is missing")
	case err != nil:
		return err
	case n == 0 || number == m.manifest && n < m.manifestBytes:
		return corrupt(fmt.Sprintf("it is whole up to byte %d, and was up to %d", n, m.manifestBytes))
	}
	return nil
}

const (
	manifestPrefix = "MANIFEST-"
	// markerPrefix begins the name of the empty file that names the current manifest:
	// marker.manifest.000003.MANIFEST-000007.
	markerPrefix = "marker.manifest."
)

// manifestName returns the name of the current manifest.
func manifestName(files vfs.FS, dir string) (string, error) {
	names, err := files.List(dir)
	if err != nil {
		return "", err
	}
	manifest, latest := "", uint64(0)
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, markerPrefix)
		number, file, found := strings.Cut(rest, ".")
		n, err := strconv.ParseUint(number, 10, 64)
		if ok && found && err == nil && n >= latest {
			manifest, latest = file, n
		}
	}
	if manifest == "" {
		return "", &store.CorruptError{What: "file", Where: manifestPrefix, Reason: "no file says which list of tables holds"}
	}
	return manifest, nil
}

func manifestNumber(name string) (uint64, bool) {
	rest, ok := strings.CutPrefix(name, manifestPrefix)
	n, err := strconv.ParseUint(rest, 10, 64)
	return n, ok && err == nil
}

// wholeBytes returns the length of the intact part of a manifest.
func wholeBytes(files vfs.FS, path string) (uint64, error) {
	f, err := files.Open(path)
	if err != nil {
		return 0, err
	}
	r, n := record.NewReader(f, 0), int64(0)
	for err == nil {
		var edit io.Reader
		if edit, err = r.Next(); err == nil {
			if _, err = io.Copy(io.Discard, edit); err == nil {
				n = r.Offset()
			}
		}
	}
	if errors.Is(err, io.EOF) || record.IsInvalidRecord(err) {
		err = nil
	}
	return uint64(n), errors.Join(err, f.Close())
}

func readFile(files vfs.FS, path string) ([]byte, error) {
	f, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	return b, errors.Join(err, f.Close())
}

func syncDir(files vfs.FS, dir string) error {
	d, err := files.OpenDir(dir)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync the directory: %w", err)
	}
	return nil
}

// dirMode is the mode of a new directory.
const dirMode = os.FileMode(0o700)
