package devcluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/BurntSushi/toml"

	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/deploy/localserver"
)

// defaultFolder returns the default folder for the data. It returns "" if the user has no
// home folder.
func defaultFolder() string {
	if os.Geteuid() == 0 {
		// PostgreSQL then runs as a user of its own, which cannot enter root's home.
		return "/var/lib/glotpod-ident/dev"
	}
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "glotpod-ident", "dev")
}

// A folder holds all data of a cluster. One process at a time uses it.
type folder struct {
	path string
	lock *os.File
}

func (f *folder) postgres() string { return filepath.Join(f.path, "postgres") }
func (f *folder) rabbitmq() string { return filepath.Join(f.path, "rabbitmq") }
func (f *folder) settings() string { return filepath.Join(f.path, "ident.toml") }
func (f *folder) key() string      { return filepath.Join(f.path, "encryption_key") }

// openFolder creates the folder if it does not exist, and locks it.
func openFolder(path string) (*folder, error) {
	if path == "" {
		return nil, errors.New("there is no home folder for the data: name a folder with --data")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711 // for PostgreSQL's user
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
		return &folder{path, lock}, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = fmt.Errorf("another glotpod-ident-dev uses %s: stop it, or use another folder with --data", path)
		return nil, errors.Join(err, lock.Close())
	default:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", lock.Name(), err), lock.Close())
	}
}

func (f *folder) close() { f.lock.Close() }

// reset removes everything except the lock.
func (f *folder) reset() error {
	for _, path := range []string{f.postgres(), f.rabbitmq(), f.settings(), f.key()} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// writeSettings writes the settings that all instances share, and an encryption key if
// there is none. The settings change with each start, since the servers get other ports.
func (f *folder) writeSettings(r *localserver.RabbitMQ, p *localserver.Postgres, logFormat string) error {
	if _, err := os.Stat(f.key()); errors.Is(err, fs.ErrNotExist) {
		if err := writeSecret(f.key(), []byte(config.GenerateKey()+"\n")); err != nil {
			return err
		}
	}
	var buf bytes.Buffer
	buf.WriteString("# Each start of glotpod-ident-dev overwrites this file.\n\n")
	err := toml.NewEncoder(&buf).Encode(map[string]map[string]any{
		// An instance reconnects by itself if its connection is closed while the broker
		// runs.
		"amqp": {"host": r.Host, "port": r.Port, "login": r.User, "password": r.Password, "insist": true},
		"database": {
			"encryption_key_file": f.key(),
			"postgres": map[string]any{
				"host":     p.Host,
				"port":     p.Port,
				"database": defaultDatabase,
				"user":     p.User,
				"password": p.Password,
				"sslmode":  "disable",
			},
		},
		"cluster": {"instance": "dev"}, // the default is the name of the host, which may be no valid name of an instance
		"log":     {"format": logFormat},
	})
	if err != nil {
		return err
	}
	return writeSecret(f.settings(), buf.Bytes())
}

// writeSecret writes a file atomically. Only the current user may read it.
func writeSecret(path string, text []byte) error {
	unfinished := path + ".new"
	if err := os.WriteFile(unfinished, text, 0o600); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}
