package localserver

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// A PgBouncer is a connection pooler in front of a server. Any user and password may connect to
// it, and gets the rights of the server's user.
type PgBouncer struct {
	Address string // host:port
	process *Process
}

// StartPgBouncer starts a pooler. dir is a folder for its settings. mode is a pool_mode:
// session, transaction or statement.
func StartPgBouncer(ctx context.Context, dir string, server *Postgres, mode string) (*PgBouncer, error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // on Debian
	}
	if !executable(program) {
		return nil, fmt.Errorf("pgbouncer: %w (on Debian or Ubuntu by `apt-get install pgbouncer`)", ErrNotInstalled)
	}
	p := new(PgBouncer)
	err = onFreePorts(1, func(ports []int) error {
		settings := filepath.Join(dir, "pgbouncer.ini")
		text := fmt.Sprintf("[databases]\n* = host=%s port=%d user=%s password=%s\n"+
			"[pgbouncer]\nlisten_addr = %s\nlisten_port = %d\nunix_socket_dir =\nauth_type = any\npool_mode = %s\n",
			server.Host, server.Port, server.User, server.Password, loopback, ports[0], mode)
		if err := os.WriteFile(settings, []byte(text), 0o644); err != nil {
			return err
		}
		arguments := []string{"-q", settings}
		if os.Getuid() == 0 {
			arguments = append(arguments, "-u", "nobody") // it refuses to run as root
		}
		p.Address = address(ports[0])
		p.process, err = launchLogged(exec.Command(program, arguments...), filepath.Join(dir, "pgbouncer.log"), syscall.SIGKILL)
		if err != nil {
			return err
		}
		err = awaitReady(ctx, p.process, func(ctx context.Context) error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.Address)
			if err != nil {
				return err
			}
			return conn.Close()
		})
		if err != nil {
			p.Kill()
		}
		return err
	})
	return p, err
}

// Kill kills the pooler.
func (p *PgBouncer) Kill() { p.process.Kill() }
