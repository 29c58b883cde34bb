package localserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// superuser is the name of the user that owns everything in a private server.
const superuser = "glotpod"

// A postgresFolder is a folder that holds a database cluster ready to be run.
type postgresFolder struct {
	dir      string
	data     string // the cluster itself
	log      string
	password string // the superuser's

	// user is whom the server must run as, nil for the program's own user.
	user *syscall.Credential
}

// openPostgresFolder prepares o.Dir, creating what is not there. A creation that
// was interrupted is done again from the start.
func openPostgresFolder(ctx context.Context, programs string, o PostgresOptions) (*postgresFolder, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	f := &postgresFolder{
		dir:  dir,
		data: filepath.Join(dir, "data"),
		log:  filepath.Join(dir, "postgres.log"),
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		if f.user, err = postgresUser(); err != nil {
			return nil, err
		}
		if err := os.Chown(dir, int(f.user.Uid), int(f.user.Gid)); err != nil {
			return nil, err
		}
		if err := checkReachable(filepath.Dir(dir), f.user); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(f.log); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, err := os.Stat(f.data); errors.Is(err, fs.ErrNotExist) {
		if err := f.create(ctx, programs, o.Durable); err != nil {
			return nil, err
		}
	}
	password, err := os.ReadFile(f.passwordFile())
	if err != nil {
		return nil, err
	}
	f.password = strings.TrimSpace(string(password))
	return f, nil
}

// crashed reports whether the server that ran here last did not end in order.
func (f *postgresFolder) crashed() bool {
	_, err := os.Stat(filepath.Join(f.data, "postmaster.pid"))
	return err == nil
}

func (f *postgresFolder) passwordFile() string { return filepath.Join(f.dir, "password") }

// create makes the password and the cluster. The cluster gets its final name
// only when it is whole.
func (f *postgresFolder) create(ctx context.Context, programs string, durable bool) error {
	if err := os.WriteFile(f.passwordFile(), []byte(rand.Text()+"\n"), 0o600); err != nil {
		return err
	}
	if f.user != nil {
		if err := os.Chown(f.passwordFile(), int(f.user.Uid), int(f.user.Gid)); err != nil {
			return err
		}
	}
	unfinished := f.data + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	args := []string{
		"--pgdata=" + unfinished,
		"--username=" + superuser,
		"--pwfile=" + f.passwordFile(),
		"--auth=scram-sha-256",
		"--encoding=UTF8",
		"--locale=C",
		"--lc-ctype=" + characterLocale,
	}
	if !durable {
		args = append(args, "--no-sync")
	}
	initdb, err := launchLogged(f.command(filepath.Join(programs, "initdb"), args...), f.log, syscall.SIGKILL)
	if err != nil {
		return err
	}
	select {
	case <-initdb.exited:
	case <-ctx.Done():
		initdb.Kill()
		return context.Cause(ctx)
	}
	if status := initdb.Status(); !status.Success() {
		return fmt.Errorf("initdb failed (%v)%s", status, logTail(f.log))
	}
	return os.Rename(unfinished, f.data)
}

// postgresUser returns the system's user whom PostgreSQL runs as.
func postgresUser() (*syscall.Credential, error) {
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and the user postgres is missing (%w): run this as another user", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	// No further groups: a folder that is open to one of them alone is
	// reported as out of reach.
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// checkReachable returns an error that names the first folder on the way to dir
// which the user may not pass through.
func checkReachable(dir string, who *syscall.Credential) error {
	var way []string
	for d := dir; ; d = filepath.Dir(d) {
		way = append(way, d)
		if d == filepath.Dir(d) {
			break
		}
	}
	for _, d := range slices.Backward(way) {
		info, err := os.Stat(d)
		if err != nil {
			return err
		}
		if !mayEnter(info, who) {
			return fmt.Errorf("the user postgres, whom PostgreSQL runs as when root starts it, may not enter %s (%v): choose another folder, or allow it by `chmod o+x %s`", d, info.Mode(), d)
		}
	}
	return nil
}

func mayEnter(info fs.FileInfo, who *syscall.Credential) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true // PostgreSQL will tell
	}
	switch mode := info.Mode(); {
	case owner.Uid == who.Uid:
		return mode&0o100 != 0
	case owner.Gid == who.Gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}
