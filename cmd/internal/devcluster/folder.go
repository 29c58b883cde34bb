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

// defaultFolder is where dev keeps its data when it is not told. It is ""
// where the environment names no home.
func defaultFolder() string {
	if os.Geteuid() == 0 {
		// PostgreSQL's own user, whom it runs as then, cannot enter root's home.
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

// folder holds all data of dev. It belongs to one process at a time.
type folder struct {
	path string
	lock *os.File
}

func (f *folder) postgres() string { return filepath.Join(f.path, "postgres") }
func (f *folder) rabbitmq() string { return filepath.Join(f.path, "rabbitmq") }
func (f *folder) settings() string { return filepath.Join(f.path, "ident.toml") }
func (f *folder) key() string      { return filepath.Join(f.path, "encryption_key") }

// openFolder makes the folder if there is none, and takes possession of it.
func openFolder(path string) (*folder, error) {
	if path == "" {
		return nil, errors.New("there is no home folder for the data: name a folder by --data")
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
	switch err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
	case nil:
		return &folder{path, lock}, nil
	case syscall.EWOULDBLOCK:
		err = fmt.Errorf("another glotpod-ident-dev uses %s: end that one, or choose another folder by --data", path)
		return nil, errors.Join(err, lock.Close())
	default:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", lock.Name(), err), lock.Close())
	}
}

func (f *folder) close() { f.lock.Close() }

// reset removes everything but the lock.
func (f *folder) reset() error {
	for _, path := range []string{f.postgres(), f.rabbitmq(), f.settings(), f.key()} {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// writeSettings writes the settings that all instances share, and an encryption
// key if there is none yet. The servers' ports, and so the settings, change with
// each start.
func (f *folder) writeSettings(r *localserver.RabbitMQ, p *localserver.Postgres, logFormat string) error {
	if _, err := os.Stat(f.key()); errors.Is(err, fs.ErrNotExist) {
		if err := writeSecret(f.key(), []byte(config.GenerateKey()+"\n")); err != nil {
			return err
		}
	}
	var buf bytes.Buffer
	buf.WriteString("# Written anew by each start of glotpod-ident-dev.\n\n")
	err := toml.NewEncoder(&buf).Encode(map[string]map[string]any{
		// While the broker runs, an instance whose connection somebody closes
		// is to come back by itself.
		"amqp": {"host": r.Host, "port": r.Port, "login": r.User, "password": r.Password, "insist": true},
		"database": {
			"encryption_key_file": f.key(),
			"postgres": map[string]any{
				"host":     p.Host,
				"port":     p.Port,
				"database": database,
				"user":     p.User,
				"password": p.Password,
				"sslmode":  "disable",
			},
		},
		"cluster": {"instance": "dev"}, // not every host's name would serve
		"log":     {"format": logFormat},
	})
	if err != nil {
		return err
	}
	return writeSecret(f.settings(), buf.Bytes())
}

// writeSecret writes a file that nobody else may read, whole or not at all.
func writeSecret(path string, text []byte) error {
	unfinished := path + ".new"
	if err := os.WriteFile(unfinished, text, 0o600); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}
