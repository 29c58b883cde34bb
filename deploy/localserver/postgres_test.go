package localserver_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/deploy/localserver"
	"github.com/glotpod/ident/deploy/testservers"
)

func TestPostgres(t *testing.T) {
	t.Parallel()
	t.Run("data survives and no process is left", testPostgresLife)
	t.Run("wrong password", testPostgresPassword)
	t.Run("death is noticed", testPostgresDeath)
	t.Run("concurrent use", testPostgresConcurrentUse)
	t.Run("port taken", testPostgresPortTaken)
	t.Run("interrupted creation", testPostgresInterruptedCreation)
	t.Run("closed folder", testPostgresClosedFolder)
}

func testPostgresLife(t *testing.T) {
	t.Parallel()
	dir := ownDir(t)
	start := func() *localserver.Postgres {
		t.Helper()
		return testservers.OwnPostgres(t, localserver.PostgresOptions{Dir: filepath.Join(dir, "postgres"), Durable: true})
	}
	p := start()
	conn := connect(t, p)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept (x int)"); err != nil {
		t.Fatal(err)
	}
	insert(t, conn, 1)

	pids := p.Processes()
	p.Kill()
	if left := running(pids); len(left) > 0 {
		t.Errorf("Kill left the processes %v of %v", left, pids)
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("a client's connection outlived Kill")
	}
	port := p.Port
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Port != port {
		t.Errorf("Restart moved the server from port %d to %d", port, p.Port)
	}
	insert(t, connect(t, p), 2)

	pids = p.Processes()
	for range 2 {
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if left := running(pids); len(left) > 0 {
		t.Errorf("Stop left the processes %v of %v", left, pids)
	}

	var sum int
	if err := connect(t, start()).QueryRow(t.Context(), "SELECT sum(x) FROM kept").Scan(&sum); err != nil {
		t.Fatal(err)
	}
	if sum != 3 {
		t.Errorf("the rows add up to %d, want 3", sum)
	}
}

func testPostgresPassword(t *testing.T) {
	t.Parallel()
	p := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	p.Password = "wrong"
	if _, err := pgx.Connect(t.Context(), p.URL("postgres")); err == nil {
		t.Error("a wrong password was accepted")
	}
}

func testPostgresDeath(t *testing.T) {
	t.Parallel()
	p := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	if err := p.Err(); err != nil {
		t.Errorf("Err is %v while the server runs", err)
	}
	if err := syscall.Kill(p.Processes()[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("after SIGKILL, Err is %v", err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	connect(t, p)
}

func testPostgresConcurrentUse(t *testing.T) {
	t.Parallel()
	p := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	var wg sync.WaitGroup
	for i := range 9 {
		wg.Go(func() {
			var err error
			switch i % 3 {
			case 0:
				err = p.Stop()
			case 1:
				p.Kill()
			case 2:
				err = p.Restart(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	select {
	case <-p.Done():
		t.Errorf("Done is closed after Stop, Kill and Restart: %v", p.Err())
	default:
	}
}

func testPostgresPortTaken(t *testing.T) {
	t.Parallel()
	p := testservers.OwnPostgres(t, localserver.PostgresOptions{})
	p.Kill()
	other := listen(t, p.Port)
	if err := p.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "Address already in use") {
		t.Errorf("Restart on a port that is taken: %v", err)
	}
	other.Close()
	if err := p.Restart(t.Context()); err != nil {
		t.Error(err)
	}
}

func testPostgresInterruptedCreation(t *testing.T) {
	t.Parallel()
	dir := ownDir(t)
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{Dir: dir}); !errors.Is(err, cause) {
		t.Errorf("a start that is cancelled: %v", err)
	}
	// Leave something behind, wherever the creation was cancelled.
	if err := os.MkdirAll(filepath.Join(dir, "data.new", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	testservers.OwnPostgres(t, localserver.PostgresOptions{Dir: dir})
}

func testPostgresClosedFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("PostgreSQL runs as another user only if root starts it")
	}
	t.Parallel()
	closed := filepath.Join(ownDir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := localserver.StartPostgres(t.Context(), localserver.PostgresOptions{Dir: filepath.Join(closed, "a", "b")})
	if err == nil || !strings.Contains(err.Error(), "chmod o+x "+closed) {
		t.Errorf("got the error %v", err)
	}
}

func connect(t *testing.T, p *localserver.Postgres) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func insert(t *testing.T, conn *pgx.Conn, x int) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "INSERT INTO kept VALUES ($1)", x); err != nil {
		t.Fatal(err)
	}
}
