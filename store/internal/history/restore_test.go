package history_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cluster/partition"
	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/storetest"
)

// TestRestore: an instance notices that an earlier state was restored, however that was done.
func TestRestore(t *testing.T) {
	t.Run("in_place", testRestoreInPlace)
	t.Run("files", testRestoreFiles)
	t.Run("no_instance_runs", testRestoreNoInstanceRuns)
}

// expectLoss fails unless commits were found to be lost once, and the lease has ended.
func (i *instance) expectLoss() {
	i.T.Helper()
	if n := i.count(zap.ErrorLevel, lost); n != 1 {
		i.T.Errorf("it was said %d times that commits were lost: %v", n, i.logs.All())
	}
	ended, err := i.EndedLeases(i.T.Context(), []partition.Lease{i.lease})
	if err != nil { // the connection for leases was lost, and this was not known
		ended, err = i.EndedLeases(i.T.Context(), []partition.Lease{i.lease})
	}
	if err != nil || len(ended) != 1 {
		i.T.Errorf("the lease from before has not ended: %v, %v", ended, err)
	}
}

// expectGreater claims and creates, and fails unless epoch and user id are greater than before.
func (i *instance) expectGreater(epoch, userID int64) {
	i.T.Helper()
	if i.lease = i.claim(i.lease.Partition); i.lease.Epoch <= epoch {
		i.T.Errorf("the epoch %d was given, and %d before", i.lease.Epoch, epoch)
	}
	if id := i.create(99); id <= userID {
		i.T.Errorf("the user id %d was given, and %d before", id, userID)
	}
}

// No connection is lost, so the survey of the leases finds it.
func testRestoreInPlace(t *testing.T) {
	i := newInstance(storetest.Start(t), "a", 1)
	i.create(1)
	tables := []string{"ident_partitions", "services", "users", "ident_log"}
	for _, table := range tables {
		i.Exec("CREATE TABLE saved_" + table + " AS TABLE " + table)
	}
	i.lease = i.claim(1)
	last := i.create(2)
	for _, table := range tables {
		i.Exec("DELETE FROM " + table)
	}
	i.Exec("ALTER SEQUENCE users_id_seq RESTART WITH 2")
	for _, table := range slices.Backward(tables) {
		i.Exec("INSERT INTO " + table + " SELECT * FROM saved_" + table)
	}
	changed := make(chan struct{}, 10)
	i.OnHistoryChange(func() { changed <- struct{}{} })
	for range 2 {
		if _, err := i.Survey(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	<-changed
	i.expectLoss()
	i.expectGreater(i.lease.Epoch, last)
}

// The write-ahead log of an older copy of the server's files is shorter, and nothing else tells.
func testRestoreFiles(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "restore")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	server := testservers.OwnPostgres(t, localserver.PostgresOptions{Dir: filepath.Join(dir, "server")})
	h := storetest.StartOnServer(t, server, "ident")
	replaceFiles := func(old, now string) {
		t.Helper()
		if err := server.Stop(); err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{{"rm", "-rf", now}, {"cp", "-a", old, now}} {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	data, saved := filepath.Join(dir, "server", "data"), filepath.Join(dir, "saved")
	replaceFiles(data, saved)
	h.DB = storetest.Connect(t, server.URL("ident"))
	i := newInstance(h, "a", 1)
	last := int64(0)
	for n := range 20 {
		last = i.create(n)
	}
	i.reach() // which learns how long the log is
	i.reach()
	replaceFiles(saved, data)
	i.reach()
	i.expectLoss()
	if logged := i.logs.FilterMessage(lost).All(); logged[0].ContextMap()["log_is_shorter"] != true {
		t.Errorf("said was %v", logged)
	}
	i.expectGreater(i.lease.Epoch, last)
}

// restoreSQL returns the statements of the guide for a restore.
func restoreSQL(t *testing.T) (all []string) {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/guide/backup.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Restore\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, block := range strings.Split(section, "```sql\n")[1:] {
		sql, _, _ := strings.Cut(block, "```")
		all = append(all, sql)
	}
	if len(all) != 3 {
		t.Fatalf("the guide has %q", all)
	}
	return all
}

// If all instances were stopped, only the history of the database, or the operator, tells that a
// backup was restored.
func testRestoreNoInstanceRuns(t *testing.T) {
	i := newInstance(storetest.Start(t), "a", 1)
	last := i.create(1)
	for _, sql := range restoreSQL(t) {
		i.Exec(sql)
	}
	other := newInstance(i.Harness, "b", 2)
	if other.count(zap.WarnLevel, anotherHistory) != 1 || other.count(zap.ErrorLevel, lost) != 0 {
		t.Errorf("said was: %v", other.logs.All())
	}
	if other.lease.Epoch < 10_000+512 {
		t.Errorf("epoch %d", other.lease.Epoch)
	}
	if id := other.create(2); id < last+10_000_000+100_000 {
		t.Errorf("user id %d after %d", id, last)
	}
	changed := make(chan struct{}, 10)
	i.OnHistoryChange(func() { changed <- struct{}{} })
	i.reach()
	i.reach()
	<-changed
	i.expectGreater(i.lease.Epoch, last)
}
