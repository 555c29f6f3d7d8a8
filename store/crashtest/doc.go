// Package crashtest is the crash kit that every durable store must survive.
//
// A store names itself in TestMain, so that the test binary can run itself as the
// process that is killed, and calls the kit from a test:
//
//	var subject = crashtest.Subject{
//		Name: "mystore",
//		Open: func(place string) (store.Log, error) { return mystore.Open(filepath.Join(place, "log")) },
//	}
//
//	func TestMain(m *testing.M) { os.Exit(crashtest.Main(m, subject)) }
//
//	func TestTheLogSurvivesEveryCrash(t *testing.T) { crashtest.Run(t, subject) }
//
// [Run] is [Kill], [Power], [IO] and [Rot] at once. In the first three a process
// commits commands of all shapes and writes down each before it is committed and
// its outcome after Commit has returned, on a pipe. When the process is gone the
// log is opened and everything in it is compared with what was written down:
//
//   - what was acknowledged is there, every part of it, once, at its version and
//     position, with its bytes;
//   - what was refused, or whose error says that it is not stored, is not there;
//   - what was in flight is there as a whole or not at all, and so is its group;
//   - there is nothing else, versions and positions have no gap, heads are those of
//     the last events, and the commands of one client lie in their order;
//   - what was once read as stored stays stored.
//
// Each part finds what the others cannot. A process that is killed loses nothing
// that it has written, synced or not: only a power cut tells whether a store
// syncs before it answers. Neither says what a store does when a sync fails.
// [Catches] shows that the kit would notice: it runs it on a store with one promise
// taken away.
//
// A store that has a server, and no files of its own, sets [Subject.Place] and
// calls Kill alone:
//
//	subject.Place = func(t testing.TB) string { return newDatabase(t) } // its URI
//	crashtest.Kill(t, subject)
//
// The counts are fields of [Subject], and flags of the test binary for the long
// version:
//
//	go test . -run Crash -timeout 2h -crash.kills 1000 -crash.powers 1000 -crash.rots 5000 -crash.stride 1 -crash.seed 7
//
// Power needs root, loop devices and mkfs.ext4 (and uses mkfs.xfs if it is there),
// IO needs /dev/fuse; elsewhere they are skipped. What they mount is unmounted by
// a process that outlives the test, however it ends.
package crashtest
