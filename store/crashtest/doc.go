// Package crashtest is the crash test kit that every durable store must pass.
//
// The package of a store calls [Main] in TestMain, because the kit starts the test binary
// again as the process that it kills, and calls the kit from a test:
//
//	var subject = crashtest.Subject{
//		Name: "mystore",
//		Open: func(place string) (store.Log, error) { return mystore.Open(filepath.Join(place, "log")) },
//	}
//
//	func TestMain(m *testing.M) { os.Exit(crashtest.Main(m, subject)) }
//
//	func TestLogSurvivesEveryCrash(t *testing.T) { crashtest.Run(t, subject) }
//
// [Run] runs [Kill], [Power], [IO] and [Rot]. In the first three a child process commits
// commands of all shapes. It writes each command to a pipe before the commit, and its
// outcome after Commit has returned. When the process is gone, the test opens the log and
// compares everything in it with the lines from the pipe:
//
//   - An acknowledged command is stored completely: every part of it, once, at its version
//     and position, with its bytes.
//   - A refused command, or one whose error says that it is not stored, is not stored.
//   - A command in flight is stored completely or not at all, and so is its group.
//   - Nothing else is stored, versions and positions have no gap, the heads are the
//     positions of the last events, and the commands of one client are in order.
//   - A command that was once read as stored stays stored.
//
// Each part finds faults that the others cannot find. A killed process loses nothing that
// it has written, synced or not: only a power cut shows whether a store syncs before it
// answers. Neither shows how a store behaves when a sync fails. [Catches] tests the kit
// itself: it runs the kit on a store that breaks one promise.
//
// A store that has a server, and no files of its own, sets [Subject.Place] and calls Kill
// alone:
//
//	subject.Place = func(t testing.TB) string { return newDatabase(t) } // its URI
//	crashtest.Kill(t, subject)
//
// [Media] damages the files of logs in more ways than Rot, and checks the results of
// verification, copies, backups and salvage.
//
// The counts are fields of [Subject]. Flags of the test binary set them for a long run:
//
//	go test . -run Crash -timeout 2h -crash.kills 1000 -crash.powers 1000 -crash.rots 5000 -crash.stride 1 -crash.seed 7
//
// Power needs root, loop devices and mkfs.ext4 (and uses mkfs.xfs if it is there), IO needs
// /dev/fuse; without them they are skipped. A separate process that outlives the test
// unmounts their file systems, even if the test is killed.
package crashtest
