package localserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// orphansTimeout is the longest time that a start waits for processes that a killed
// server has left. They keep the data folder locked until they notice that the server
// is gone, at the latest at the end of a statement.
const orphansTimeout = 20 * time.Second

// PostgresOptions configure a PostgreSQL server.
type PostgresOptions struct {
	// Dir is the server's folder. It is created if it does not exist. It holds the
	// data, the superuser's password and the log, postgres.log. PostgreSQL refuses to
	// run as root. So if this program runs as root, the system's user postgres becomes
	// the owner of Dir, and that user must be allowed to enter the parent folders.
	Dir string

	// Durable makes the data survive a crash of the machine. Without Durable, which is
	// faster and enough for tests, the data survives a crash of the server only.
	Durable bool

	// CountStatements loads pg_stat_statements, if it is installed. A database that is to
	// show the counters also needs the extension of this name.
	CountStatements bool

	// StandbyOf makes the server a standby of another one, which it follows asynchronously. The
	// creation of the folder copies the data of that one.
	StandbyOf *Postgres
}

// Postgres is a private PostgreSQL server. Its exported fields do not change.
type Postgres struct {
	Host     string
	Port     int
	User     string // a superuser
	Password string

	server
}

// StartPostgres starts a server on a free port and returns when the server answers. The
// first start in a folder creates the data; later starts find the data, the user and
// the password again. Cancelling ctx makes a running StartPostgres fail, and does not
// affect a server that has been started.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	programs, err := findPostgres()
	if err != nil {
		return nil, err
	}
	folder, err := openPostgresFolder(ctx, programs, o)
	if err != nil {
		return nil, fmt.Errorf("prepare %s for PostgreSQL: %w", o.Dir, err)
	}
	var p *Postgres
	err = onFreePorts(1, func(ports []int) error {
		p = newPostgres(programs, folder, o, ports[0])
		return p.start(ctx)
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Address returns host:port.
func (p *Postgres) Address() string { return address(p.Port) }

// URL returns the connection URL of one of the server's databases.
func (p *Postgres) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(p.User, p.Password),
		Host:     address(p.Port),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

func newPostgres(programs string, folder *postgresFolder, o PostgresOptions, port int) *Postgres {
	p := &Postgres{Host: loopback, Port: port, User: superuser, Password: folder.password}
	p.server = server{
		name:       "PostgreSQL",
		log:        folder.log,
		stopSignal: syscall.SIGINT, // disconnects clients, then shuts down cleanly
		done:       make(chan struct{}),
	}
	arguments := postgresArguments(folder.data, port, o.Durable)
	if o.CountStatements && hasLibrary(programs, "pg_stat_statements") {
		arguments = append(arguments, "-c", "shared_preload_libraries=pg_stat_statements")
	}
	startMain := func() (*Process, error) {
		cmd := folder.command(filepath.Join(programs, "postgres"), arguments...)
		// On SIGQUIT, PostgreSQL ends at once and leaves no shared memory behind.
		return launchLogged(cmd, p.log, syscall.SIGQUIT)
	}
	p.launch = func(ctx context.Context) ([]*Process, error) {
		crashed := folder.crashed()
		for begin := time.Now(); ; {
			main, err := startMain()
			if err != nil {
				return nil, err
			}
			err = awaitReady(ctx, main, p.probe)
			if crashed && main.ended() && !anyTaken([]int{port}) && time.Since(begin) < orphansTimeout {
				continue
			}
			return []*Process{main}, err
		}
	}
	return p
}

// Promote makes a standby a primary. It returns when the server accepts writes.
func (p *Postgres) Promote(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "SELECT pg_promote()").ReadAll()
	return errors.Join(err, conn.Close(ctx))
}

// probe succeeds when a client can log in.
func (p *Postgres) probe(ctx context.Context) error {
	conn, err := pgconn.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func postgresArguments(data string, port int, durable bool) []string {
	settings := []string{
		"listen_addresses=" + loopback,
		"port=" + strconv.Itoa(port),
		"unix_socket_directories=",
		"logging_collector=off", // PostgreSQL logs to its standard error
		"max_connections=200",
	}
	if !durable {
		// A server that is killed leaves no file in /dev/shm.
		settings = append(settings, "fsync=off", "full_page_writes=off", "log_checkpoints=off", "dynamic_shared_memory_type=mmap")
	}
	args := []string{"-D", data}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	return args
}

// hasLibrary reports whether a loadable library of PostgreSQL is where packages put it,
// relative to the program postgres.
func hasLibrary(programs, name string) bool {
	postgres, err := filepath.EvalSymlinks(filepath.Join(programs, "postgres"))
	if err != nil {
		return false
	}
	for _, folder := range []string{"lib", "lib/postgresql"} {
		found, _ := filepath.Glob(filepath.Join(filepath.Dir(postgres), "..", folder, name+".*")) // an error would mean a malformed pattern
		if len(found) > 0 {
			return true
		}
	}
	return false
}

// command returns a command that runs as the folder's user, in the folder. Of this
// program's environment it gets PATH only.
func (f *postgresFolder) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = f.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if f.user != nil {
		cmd.SysProcAttr.Credential = f.user
	}
	return cmd
}
