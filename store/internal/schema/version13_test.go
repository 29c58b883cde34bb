package schema_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cluster/ownership"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store/internal/schema"
	"github.com/glotpod/ident/store/internal/storetest"
)

// version13 is a database with the schema before the log.
type version13 struct {
	*storetest.Harness
	test testing.TB // T is a subtest of it
}

func newVersion13(t *testing.T) *version13 {
	t.Helper()
	db := testservers.Postgres(t)
	h := &storetest.Harness{T: t, DB: storetest.Connect(t, db.URL()), Options: storetest.Options(t, db)}
	h.Exec(`CREATE TABLE ident_migrations (version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(), oldest int)`)
	for applied := 1; applied <= 13; applied++ {
		h.Exec(schema.SQL(applied), pgx.QueryExecModeSimpleProtocol)
		h.Exec("INSERT INTO ident_migrations (version, name, oldest) VALUES ($1, '', CASE WHEN $1 >= 7 THEN 6 END)", applied)
	}
	return &version13{h, t}
}

// A written is a request as version 13 has written it. The transaction's time is that of the
// database.
type written struct {
	operation, messageID string // "" for a request without an id
	args                 storetest.Args
	user                 int64
	refusal              *actor.Refusal

	change string // in the audit, "" for none
	body   string // of a pending notification, "" if it was confirmed
	sealed bool
	over   int // the partition
	trace  bool

	noRecord bool // it was removed, because of its age or because the request id was used again
}

// ago writes what the requests of a transaction have left.
func (v *version13) ago(age time.Duration, all ...written) {
	v.T.Helper()
	at := v.Value("SELECT now() - $1::interval", age).(time.Time)
	keys := v.Options.Keyring
	for _, w := range all {
		request := storetest.Request(v.T, w.operation, w.messageID, w.args)
		id := any(request.RequestID)
		if w.messageID == "" {
			id = nil
		}
		var trace *string
		if w.trace {
			trace = &w.messageID
		}
		if !w.noRecord {
			var code, message *string
			if w.refusal != nil {
				code, message = (*string)(&w.refusal.Code), &w.refusal.Message
			}
			v.Exec(`INSERT INTO ident_requests (slot, identity, digest, user_id, code, message, at)
				SELECT slots.slot, coalesce($1::uuid, gen_random_uuid()), $2, $3, $4, $5, $6
				FROM (SELECT ident_slot($6) UNION SELECT ident_slot($6 - interval '10 minutes')) AS slots (slot)`,
				id, request.Digest, w.user, code, message, at)
		}
		if w.change != "" {
			v.Exec("INSERT INTO ident_audit (committed_at, user_id, operation, request, traceparent, changes) VALUES ($1, $2, $3, $4, $5, $6)",
				at, w.user, w.operation, id, trace, w.change)
		}
		if w.body != "" {
			body := []byte(w.body)
			if w.sealed {
				var err error
				if body, err = keys.Seal(body); err != nil {
					v.T.Fatal(err)
				}
			}
			v.Exec(`INSERT INTO ident_outbox (user_id, message_id, routing_key, body, sealed, traceparent, committed_at, partition)
				VALUES ($1, gen_random_uuid(), $2, $3, $4, $5, $6, $7)`,
				w.user, "notifications.user."+w.operation, body, w.sealed, trace, at, w.over)
		}
	}
}

// insertUser inserts the user number n under the id n.
func (v *version13) insertUser(n int64) {
	v.T.Helper()
	token, err := v.Options.Keyring.Seal([]byte(fmt.Sprintf("token-%d", n)))
	if err != nil {
		v.T.Fatal(err)
	}
	v.Exec("INSERT INTO users (id, name, email_address) VALUES ($1, $2, $3)", n, fmt.Sprintf("Ada %d", n), fmt.Sprintf("ada%d@example.org", n))
	v.Exec("INSERT INTO services (user_id, sv_id, sv_name, access_token) VALUES ($1, $1, 'gh', $2)", n, token)
	v.Exec("SELECT setval('users_id_seq', greatest($1, (SELECT last_value FROM users_id_seq)))", n)
}

// formCluster writes what the instances of a cluster with 4 partitions have left. The holder of
// partition 0 has not released it; nobody has held partition 2.
func (v *version13) formCluster() {
	v.T.Helper()
	v.Exec("INSERT INTO ident_cluster (partitions, queue_type, table_version) VALUES (4, 'quorum', $1)", ownership.TableVersion)
	v.Exec(`INSERT INTO ident_partitions (partition, epoch, holder, holder_start, holder_session, released)
		VALUES (0, 5, 'old', 1, 1, false), (1, 2, 'old', 1, 1, true), (2, 0, NULL, NULL, NULL, true), (3, 1, 'old', 1, 1, true)`)
}

// openStore opens another store, which the end of the whole test closes.
func (v *version13) openStore() {
	sub := v.T
	defer func() { v.T = sub }()
	v.T = v.test
	v.Store = v.OpenStore()
}

// migrate opens a store on the migrated database.
func (v *version13) migrate() {
	v.T.Helper()
	storetest.Migrate(v.T, v.DB)
	v.openStore()
	v.Agree(4)
	v.Lease = v.ClaimPartition(0, 5)
}

func patchOf(user int64, ops ...any) storetest.Args {
	return storetest.Args{"user_id": user, "ops": ops}
}

func rename(user int64, name string) storetest.Args {
	return patchOf(user, storetest.Replace("/name", name)...)
}

// renamed returns the change and the notification of a new name.
func renamed(user int64, name string) (change, body string) {
	change = fmt.Sprintf(`[{"op":"replace","path":"/name","value":%q}]`, name)
	return change, fmt.Sprintf(`{"ops":%s,"user_id":%d}`, change, user)
}

// renames returns what a request for a new name has left, with a pending notification.
func renames(messageID string, user int64, name string, over int) written {
	w := written{operation: "patch", messageID: messageID, args: rename(user, name), user: user, over: over, trace: messageID != ""}
	w.change, w.body = renamed(user, name)
	return w
}

// confirmed returns what is left once the notification is confirmed.
func (w written) confirmed() written {
	w.body = ""
	return w
}

// sealedAs returns what is left if the notification has access tokens.
func (w written) sealedAs(body string) written {
	w.body, w.sealed = body, true
	return w
}

// sealedBody returns a notification that is as long as one of a change with an access token.
func sealedBody(n int) string {
	return fmt.Sprintf(`{"sealed":%d,"more":%q}`, n, strings.Repeat("x", 40))
}

func (w written) notAudited() written {
	w.change = ""
	return w
}

func (w written) withoutTrace() written {
	w.trace = false
	return w
}

func (w written) withoutRecord() written {
	w.noRecord = true
	return w
}

const (
	hour       = time.Hour
	createdOne = `{"email":"ada1@example.org","github":{"id":1},"id":1,"name":"Ada 1"}`
	newToken   = `{"op":"replace","path":"/github/access_token"}`
)

// fill writes requests of several days and users. User 2 is deleted.
func (v *version13) fill() {
	for _, id := range []int64{1, 3, 4, 5} {
		v.insertUser(id)
	}
	v.formCluster()
	created := written{operation: "create", messageID: "create-1", args: storetest.UserArgs(1), user: 1, trace: true}
	created.change = `[{"op":"add","path":"","value":` + createdOne + `}]`
	v.ago(40*24*hour, created.withoutRecord())
	v.ago(70*hour, renames("twice", 1, "first", 0).confirmed().withoutRecord())
	v.ago(69*hour, renames("pending-long", 4, "Eve 4", 3))
	v.ago(23*hour, renames("yesterday", 1, "Eve", 0).confirmed())
	v.ago(22*hour, renames("reused", 1, "used", 0).confirmed().withoutRecord())
	v.ago(2*hour, renames("twice", 1, "second", 0).confirmed())
	v.ago(2*hour, written{operation: "create", messageID: "refused", args: storetest.UserArgs(1), refusal: &actor.Refusal{Code: actor.Conflict, Message: "taken"}})
	v.ago(2*hour, written{operation: "delete", messageID: "reused", args: storetest.Args{"user_id": 99}, refusal: &actor.Refusal{Code: actor.NotFound, Message: "no such user"}})
	v.ago(hour, renames("", 1, "without id", 0).confirmed())

	// User 2 of partition 0 is deleted, and nothing of it was confirmed.
	v.ago(50*time.Minute, renames("rename-2", 2, "Eve 2", 0))
	v.ago(49*time.Minute, written{operation: "delete", messageID: "delete-2", args: storetest.Args{"user_id": 2}, user: 2,
		change: `[{"op":"remove","path":""}]`, body: `{"user_id":2}`, trace: true})

	// The first of five changes of user 3 in one transaction was confirmed.
	token := written{operation: "patch", messageID: "token", args: patchOf(3, storetest.Replace("/github/access_token", "t")...), user: 3,
		change: "[" + newToken + "]", body: `{"ops":[],"user_id":3}`, over: 1, trace: true}
	nothing := written{operation: "patch", messageID: "nothing", args: patchOf(3), user: 3, body: `{"ops":[],"user_id":3}`, over: 1, trace: true}
	v.ago(40*time.Minute, renames("a", 3, "A", 1).confirmed(), renames("b", 3, "B", 1), nothing, token, renames("c", 3, "C", 1), renames("b2", 3, "B", 1))

	// The notifications of users 4 and 5 have tokens.
	both := renames("sealed", 4, "Sealed", 3)
	both.args = patchOf(4, append(storetest.Replace("/name", "Sealed"), storetest.Replace("/github/access_token", "s")...)...)
	both.change = strings.TrimSuffix(both.change, "]") + "," + newToken + "]"
	v.ago(30*time.Minute, both.sealedAs(`{"ops":[{"op":"replace","path":"/name","value":"Sealed"},{"op":"replace","path":"/github/access_token","value":"s"}],"user_id":4}`))
	empty := renames("sealed-nothing", 4, "", 3).notAudited()
	empty.args = patchOf(4)
	v.ago(25*time.Minute, empty.sealedAs(`{"ops":[],"user_id":4}`))
	v.ago(20*time.Minute, renames("s1", 5, "S1", 2).sealedAs(sealedBody(1)).withoutTrace(), renames("s2", 5, "S2", 2).sealedAs(sealedBody(2)).withoutTrace())
	v.ago(10*time.Minute, renames("later", 5, "Later", 2))
}
