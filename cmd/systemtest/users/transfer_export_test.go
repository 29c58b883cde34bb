package users

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// threePages makes a site with users for three pages of an export.
func threePages(t *testing.T) *harness.Site {
	t.Helper()
	s := harness.NewSite(t)
	s.Exec(t, `INSERT INTO users (id, name, email_address) SELECT 2 * n, 's3cret ' || n, n FROM generate_series(1, 3000) AS n`)
	s.Exec(t, `INSERT INTO services (user_id, sv_id, sv_name, access_token) SELECT id, id, 'fb', $1 FROM users`,
		harness.Seal(t, s.Settings["database.encryption_key"], "s3cret-token"))
	return s
}

// lockUsers makes exports wait at the second page until unlockUsers.
func lockUsers(t *testing.T, s *harness.Site) {
	t.Helper()
	s.Exec(t, `CREATE TABLE gate (open boolean)`)
	s.Exec(t, `CREATE FUNCTION wait() RETURNS boolean LANGUAGE plpgsql AS $$
		BEGIN WHILE NOT EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN true; END $$`)
	s.Exec(t, `ALTER TABLE users RENAME TO all_users`)
	s.Exec(t, `CREATE VIEW users AS SELECT * FROM all_users WHERE id NOT BETWEEN 3001 AND 5000 OR wait()`)
}

func unlockUsers(t *testing.T, s *harness.Site) {
	t.Helper()
	s.Exec(t, "INSERT INTO gate VALUES (true)")
}

// launchExport begins an export to a file, which waits when it returns.
func launchExport(t *testing.T, s *harness.Site, path string, args ...string) *harness.Process {
	t.Helper()
	p := harness.Launch(t, s.Settings.Environ(), append([]string{"export", "--output", path}, args...)...)
	harness.Eventually(t, "a page waits", func() bool { return blockedStatements(t, s) > 0 })
	return p
}

// blockedStatements counts the pages that wait.
func blockedStatements(t *testing.T, s *harness.Site) int {
	t.Helper()
	return s.Count(t, `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()`)
}

// content returns what is in a file.
func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestExport(t *testing.T) {
	t.Parallel()
	t.Run("resume", testExportResume)
	t.Run("full_disk", testExportFullDisk)
	t.Run("permissions", testExportPermissions)
	t.Run("one_at_a_time", testExportOneAtATime)
	t.Run("replaces_only_files", testExportReplacesOnlyFiles)
	t.Run("links", testExportLinks)
	t.Run("without_tokens", testExportWithoutTokens)
}

func testExportResume(t *testing.T) {
	t.Parallel()
	s := threePages(t)
	whole := exportUsers(t, s)
	path := filepath.Join(t.TempDir(), "users.ndjson")
	partial := path + ".partial"

	// It is stopped while it reads the second page.
	lockUsers(t, s)
	p := launchExport(t, s, path)
	if err := p.Cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status := p.AwaitExit(t, harness.Timeout); status != 1 || !strings.Contains(p.Stderr.String(), "after user 2000: --resume") {
		t.Errorf("ended with %d: %s", status, p.Stderr.String())
	}
	if got := content(t, partial); !strings.HasPrefix(whole, got) || strings.Count(got, "\n") != 1001 {
		t.Errorf("it has written\n%s", got)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("half a file is in its place")
	}
	unlockUsers(t, s)
	if status, _, stderr := runOn(t, s, "export", "--output", path, "--resume", "--tokens", "omit"); status != 1 {
		t.Errorf("going on without tokens: %d, %s", status, stderr)
	}
	if status, stdout, stderr := runOn(t, s, "export", "--output", path, "--resume", "--json"); status != 0 || content(t, path) != whole || !strings.Contains(stdout, `"total": `) {
		t.Errorf("going on: %d, %s", status, stderr)
	}

	// It is killed, in the middle of what it writes or before the file is in its place.
	for _, n := range []int{0, 1, 30, len(whole) / 2, len(whole) - 5, len(whole)} {
		if err := os.WriteFile(partial, []byte(whole[:n]), 0o600); err != nil {
			t.Fatal(err)
		}
		if status, _, stderr := runOn(t, s, "export", "--output", path, "--resume"); status != 0 || content(t, path) != whole {
			t.Errorf("going on after %d bytes: %d, %s", n, status, stderr)
		}
	}
	if status, _, stderr := runOn(t, s, "export", "--output", path); status != 0 || content(t, path) != whole {
		t.Errorf("anew: %d, %s", status, stderr)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if rest := exportUsers(t, s, "--after-id", "5998"); strings.Count(rest, "\n") != 3 || !strings.Contains(rest, `"after_id":5998`) {
		t.Errorf("the rest:\n%s", rest)
	}
}

// The disk is full in the middle of a page, most of which is in memory already.
func testExportFullDisk(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Exec(t, `INSERT INTO users (id, name, email_address) SELECT n, repeat('s3cret', 100), n FROM generate_series(1, 5000) AS n`)
	s.Exec(t, `INSERT INTO services (user_id, sv_id, sv_name, access_token) SELECT id, id, 'fb', $1 FROM users`,
		harness.Seal(t, s.Settings["database.encryption_key"], "s3cret-token"))
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	for _, to := range []string{"", "--output " + folder + "/b"} {
		file := folder + "/a"
		shell := exec.Command("sh", "-c", "ulimit -f 2000 && exec '"+program+"' export "+to+" >"+file) // 1,000 KiB
		shell.Env = s.Settings.Environ()
		var stderr strings.Builder
		shell.Stderr = &stderr
		var ended *exec.ExitError
		if err := shell.Run(); !errors.As(err, &ended) || ended.ExitCode() != 1 {
			t.Errorf("export %s: %v, %s", to, err, stderr.String())
		}
		if to != "" {
			file = folder + "/b.partial"
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var last int
		_, after, _ := strings.Cut(stderr.String(), "interrupted after user ")
		if _, err := fmt.Sscanf(after, "%d:", &last); err != nil || last < 1000 || strings.Count(string(content), "\n") < last+1 {
			t.Errorf("%d lines are there: %s", strings.Count(string(content), "\n"), stderr.String())
		}
	}
}

func testExportPermissions(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path+".partial", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := runOn(t, s, "export", "--output", path); status != 0 {
		t.Fatal(stderr)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Symlink(path+".others", path+".partial"); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := runOn(t, s, "export", "--output", path); status != 1 {
		t.Errorf("a link is followed: %d", status)
	}
	if _, err := os.Stat(path + ".others"); err == nil {
		t.Error("a link is followed")
	}
	if err := errors.Join(os.Remove(path+".partial"), syscall.Mkfifo(path+".partial", 0o640)); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := runOn(t, s, "export", "--output", path, "--resume"); status != 1 || !strings.Contains(stderr, "not a regular file") {
		t.Errorf("to a FIFO: %d, %s", status, stderr)
	}
	if info, err := os.Stat(path + ".partial"); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("it has changed the FIFO: %v, %v", info, err)
	}
}

func testExportOneAtATime(t *testing.T) {
	t.Parallel()
	s := threePages(t)
	whole := exportUsers(t, s)
	path := filepath.Join(t.TempDir(), "users")
	lockUsers(t, s)
	refused := func(args ...string) {
		t.Helper()
		args = append([]string{"export", "--output", path}, args...)
		if status, _, stderr := runOn(t, s, args...); status != 1 || !strings.Contains(stderr, "another export writes "+path+".partial") {
			t.Errorf("%s ended with %d: %s", args, status, stderr)
		}
	}
	first := launchExport(t, s, path)
	begun := content(t, path+".partial")
	refused()
	refused("--resume")
	if now := content(t, path+".partial"); now != begun {
		t.Errorf("who was refused has written\n%s\nover\n%s", now, begun)
	}
	first.Kill(t) // and holds nothing any more
	s.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()")
	harness.Eventually(t, "its page waits no more", func() bool { return blockedStatements(t, s) == 0 })
	second := launchExport(t, s, path, "--resume")
	refused()
	unlockUsers(t, s)
	if status := second.AwaitExit(t, harness.Timeout); status != 0 || content(t, path) != whole {
		t.Errorf("going on: %d, %s", status, second.Stderr.String())
	}
}

func testExportReplacesOnlyFiles(t *testing.T) {
	t.Parallel()
	s := harness.NewEmptySite(t)              // where one that reads ends with 78
	folder, err := os.MkdirTemp("", "export") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	at := func(name string) string { return filepath.Join(folder, name) }
	socket, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := errors.Join(
		syscall.Mkfifo(at("fifo"), 0o600), os.Mkdir(at("folder"), 0o700),
		os.Symlink("fifo", at("to-fifo")), os.Symlink("folder", at("to-folder")),
		os.Symlink("to-fifo", at("to-link")), os.Symlink("circle", at("circle")),
	); err != nil {
		t.Fatal(err)
	}
	there := func() (all []string) {
		fs.WalkDir(os.DirFS(folder), ".", func(path string, entry fs.DirEntry, err error) error {
			all = append(all, path+" "+entry.Type().String())
			return err
		})
		return all
	}
	before := there()
	for _, name := range []string{"fifo", "socket", "folder", "folder/.", "folder/..", "to-fifo", "to-folder", "to-link", "circle"} {
		for _, more := range []string{"--tokens=omit", "--resume"} {
			status, _, stderr := runOn(t, s, "export", more, "--output", folder+"/"+name)
			if status != 2 || name != "circle" && !strings.Contains(stderr, "redirect standard output") {
				t.Errorf("to %s, it ended with %d: %s", name, status, stderr)
			}
		}
	}
	if after := there(); !slices.Equal(after, before) {
		t.Errorf("there is %q, and was %q", after, before)
	}
}

func testExportLinks(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	whole := exportUsers(t, s)
	folder := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(folder+"/far/away", 0o700), os.Mkdir(folder+"/near", 0o700),
		os.Symlink("far/away", folder+"/short"),       // so that short/.. is far
		os.Symlink("../short/../b", folder+"/near/a"), // to far/b
		os.Symlink(folder+"/near/a", folder+"/users"), // to the link
	); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"is not there", "is replaced"} {
		// A file that others had begun would lie beside the target, and hinder.
		if err := os.Mkdir(folder+"/far/b.partial", 0o700); err != nil {
			t.Fatal(err)
		}
		if status, _, stderr := runOn(t, s, "export", "--output", folder+"/users"); status != 1 || !strings.Contains(stderr, "b.partial") {
			t.Errorf("it is written elsewhere: %d, %s", status, stderr)
		}
		if err := os.Remove(folder + "/far/b.partial"); err != nil {
			t.Fatal(err)
		}
		if status, _, stderr := runOn(t, s, "export", "--output", folder+"/users"); status != 0 {
			t.Errorf("where it leads to what %s: %d, %s", what, status, stderr)
		}
		if info, err := os.Lstat(folder + "/far/b"); err != nil || !info.Mode().IsRegular() || content(t, folder+"/far/b") != whole {
			t.Errorf("where it leads to what %s: %v, %v", what, info, err)
		}
		for _, link := range []string{"/users", "/near/a"} {
			if _, err := os.Readlink(folder + link); err != nil {
				t.Errorf("the link is gone: %v", err)
			}
		}
	}
}
