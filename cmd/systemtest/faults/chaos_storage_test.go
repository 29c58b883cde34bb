package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/glotpod/ident/deploy/localserver"
)

// orphanSubscriber stops the subscriber's queue on all nodes but one, so that it has no majority
// and confirms nothing. The nodes go on.
func (c *calamity) orphanSubscriber() *fault {
	for _, broker := range c.brokers {
		if c.isStruck(broker.Node()) {
			return nil // the queue may be down there
		}
	}
	first := c.random.IntN(len(c.brokers))
	var stopped []*localserver.RabbitMQ
	var nodes []string
	for i, broker := range c.brokers {
		if i != first {
			stopped, nodes = append(stopped, broker), append(nodes, broker.Node())
		}
	}
	each := func(do string) func() {
		return func() {
			for _, broker := range stopped {
				c.eval(broker, `{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"`+chaosSubscriber+`">>)),
					{Name, _} = amqqueue:get_pid(Q), ok = ra:`+do+`(quorum_queues, {Name, node()}).`)
			}
		}
	}
	return &fault{name: "take the subscriber's majority", lasts: c.between(time.Second, 6*time.Second), strikes: nodes,
		begin: each("stop_server"), heal: each("restart_server")}
}

// fillDatabaseDisk fills the file system of the primary. If the server ends for it, it is started
// again when there is room.
func (c *calamity) fillDatabaseDisk() *fault {
	if c.isStruck(theDatabase) || !c.ownDisks {
		return nil
	}
	var primary *localserver.Postgres
	var filler string
	return &fault{name: "fill the database's disk", lasts: c.between(time.Second, 4*time.Second), strikes: []string{theDatabase},
		begin: func() {
			i := c.primary()
			primary, filler = c.databases[i], filepath.Join(c.folders[i], "filler")
			conn := c.connect(i) // while there is room for what a new connection writes
			defer conn.Close(c.t.Context())
			fillFile(c.t, filler)
			c.checkFull(conn)
		},
		heal: func() {
			if err := os.Remove(filler); err != nil {
				c.t.Fatal(err)
			}
			select {
			case <-primary.Done():
				restart(c.t, primary)
			default:
			}
		}}
}

// diskSize is the size of the file systems of the databases. It has room for what a run writes.
const diskSize = "600m"

// newDisk mounts a file system of its own at a folder, for a fault that fills it. It returns false
// if this user may not mount one.
func newDisk(t *testing.T, folder string) bool {
	t.Helper()
	if err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+diskSize, "tmpfs", folder).Run(); err != nil {
		t.Logf("no fault fills the database's disk: mount: %v", err)
		return false
	}
	t.Cleanup(func() {
		if err := exec.CommandContext(context.Background(), "umount", folder).Run(); err != nil {
			t.Errorf("umount %s: %v", folder, err)
		}
	})
	return true
}

// fillFile creates a file that takes the room that is left in its file system, but for a few pages.
func fillFile(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 1<<12; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// checkFull fails if a database has room for another table.
func (f *fleet) checkFull(conn *pgx.Conn) {
	f.t.Helper()
	_, err := conn.Exec(f.t.Context(), "CREATE TABLE too_large AS SELECT generate_series(1, 1000000)")
	var full *pgconn.PgError
	if !errors.As(err, &full) || full.Code != "53100" {
		f.t.Errorf("creating a table on a full disk: %v", err)
	}
}

// rotateDatabasePassword changes the password of the members' role, in the database and in the
// file, one after the other, while half of their connections end.
func (c *calamity) rotateDatabasePassword() *fault {
	if c.isStruck(theDatabase) {
		return nil
	}
	password := fmt.Sprintf("password-%d", c.random.Int())
	first, second := func() { c.changeRolePassword(password) }, func() { writeFile(c.t, c.roleFile, password) }
	if c.random.IntN(2) == 0 {
		first, second = second, first
	}
	return &fault{name: "rotate the database's password", lasts: c.between(0, 4*time.Second), strikes: []string{theDatabase},
		begin: func() {
			first()
			c.execute(c.primary(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '"+chaosLogin+"' AND random() < 0.5")
		},
		heal: second}
}
