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

// superuser is the database user that initdb creates. It owns all databases.
const superuser = "glotpod"

// A postgresFolder is a folder with an initialized data folder in it.
type postgresFolder struct {
	dir      string
	data     string // PostgreSQL's data folder, in dir
	log      string
	password string // of the superuser

	user *syscall.Credential // the user that runs the server; nil for this program's user
}

// openPostgresFolder prepares o.Dir. It creates the data folder if it does not exist,
// also after a creation that was interrupted.
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
		if err := f.create(ctx, programs, o); err != nil {
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

// crashed reports whether the last server in this folder did not shut down cleanly.
func (f *postgresFolder) crashed() bool {
	_, err := os.Stat(filepath.Join(f.data, "postmaster.pid"))
	return err == nil
}

func (f *postgresFolder) passwordFile() string { return filepath.Join(f.dir, "password") }

// create creates the password and the data folder. The data folder gets its final name
// only after it is complete.
func (f *postgresFolder) create(ctx context.Context, programs string, o PostgresOptions) error {
	password := rand.Text()
	if o.StandbyOf != nil {
		password = o.StandbyOf.Password
	}
	if err := os.WriteFile(f.passwordFile(), []byte(password+"\n"), 0o600); err != nil {
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
	program, args := "initdb", []string{
		"--pgdata=" + unfinished,
		"--username=" + superuser,
		"--pwfile=" + f.passwordFile(),
		"--auth=scram-sha-256",
		"--encoding=UTF8",
		"--locale=C",
		"--lc-ctype=" + characterLocale,
	}
	if primary := o.StandbyOf; primary != nil {
		program, args = "pg_basebackup", []string{"--pgdata=" + unfinished, "--write-recovery-conf", "--checkpoint=fast",
			"--dbname=" + primary.URL("postgres")}
		postgres, err := filepath.EvalSymlinks(filepath.Join(programs, "postgres")) // its folder has all programs
		if err != nil {
			return err
		}
		programs = filepath.Dir(postgres)
	}
	if !o.Durable {
		args = append(args, "--no-sync")
	}
	creating, err := launchLogged(f.command(filepath.Join(programs, program), args...), f.log, syscall.SIGKILL)
	if err != nil {
		return err
	}
	select {
	case <-creating.exited:
	case <-ctx.Done():
		creating.Kill()
		return context.Cause(ctx)
	}
	if status := creating.Status(); !status.Success() {
		return fmt.Errorf("%s failed (%v)%s", program, status, logTail(f.log))
	}
	return os.Rename(unfinished, f.data)
}

// postgresUser returns the system's user postgres, as which PostgreSQL runs.
func postgresUser() (*syscall.Credential, error) {
	account, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no user postgres (%w): run this program as another user", err)
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	// The user's supplementary groups are left out. So checkReachable may reject a
	// folder that only one of these groups may enter.
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// checkReachable returns an error if the user may not enter dir or one of its parents.
// The error names the topmost such folder.
func checkReachable(dir string, credential *syscall.Credential) error {
	var folders []string // from dir up to the root
	for d := dir; ; d = filepath.Dir(d) {
		folders = append(folders, d)
		if d == filepath.Dir(d) {
			break
		}
	}
	for _, d := range slices.Backward(folders) {
		info, err := os.Stat(d)
		if err != nil {
			return err
		}
		if !mayEnter(info, credential) {
			return fmt.Errorf("PostgreSQL runs as the user postgres when root starts it, and this user may not enter %s (%v): choose another folder, or run `chmod o+x %s`", d, info.Mode(), d)
		}
	}
	return nil
}

func mayEnter(info fs.FileInfo, credential *syscall.Credential) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true // unknown; PostgreSQL reports an error if it may not
	}
	switch mode := info.Mode(); {
	case owner.Uid == credential.Uid:
		return mode&0o100 != 0
	case owner.Gid == credential.Gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}
