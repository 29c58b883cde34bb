package clients

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// sampleQueue is the queue of the subscriber.
const sampleQueue = "glotpod-mail.users"

// runSample runs the sample of PROTOCOL.md in a thread. For each line of standard input it writes the users
// of the copy. The line "damage" damages the position.
const runSample = `
import json, sys, threading
import pika
from glotpod_ident import Client
exec(open(sys.argv[1]).read())
url = pika.URLParameters(sys.argv[2])
copy = Copy(Client(sys.argv[2]))
threading.Thread(target=follow, args=(copy, pika.BlockingConnection(url).channel(), sys.argv[3]), daemon=True).start()
for line in sys.stdin:
    if line.strip() == "damage":
        copy.position = "damaged"
    print(json.dumps(list(copy.users.values())), flush=True)
`

// sample returns the path of a file with the sample of PROTOCOL.md.
func sample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../cluster/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "<!-- cmd/systemtest/clients runs this. -->\n```python\n")
	code, _, ends := strings.Cut(rest, "\n```\n")
	if !ok || !ends {
		t.Fatal("PROTOCOL.md has no sample")
	}
	path := filepath.Join(t.TempDir(), "sample.py")
	if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A sampleTest has a running sample and what changes the users.
type sampleTest struct {
	caller     *harness.Caller
	subscriber *harness.Subscriber
	channel    *amqp.Channel
	in         io.Writer
	out        *bufio.Scanner
}

func startSample(t *testing.T, url string) *sampleTest {
	t.Helper()
	cmd := exec.Command(python(t), "-B", "-c", runSample, sample(t), url, sampleQueue)
	cmd.Env = append(os.Environ(), "PYTHONPATH=../../../deploy/clients/python")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // ends the process
		defer time.AfterFunc(patience, func() { cmd.Process.Kill() }).Stop()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &sampleTest{in: in, out: bufio.NewScanner(out)}
	if s.channel, err = conn.Channel(); err != nil {
		t.Fatal(err)
	}
	return s
}

// users returns the users of the copy.
func (s *sampleTest) users(t *testing.T, command string) (users []any) {
	t.Helper()
	io.WriteString(s.in, command+"\n")
	if !s.out.Scan() {
		t.Fatal("the sample has ended")
	}
	users, _ = harness.FromJSON(t, s.out.Bytes()).([]any)
	return users
}

// awaitEqual fails unless the copy becomes equal to the users of the service.
func (s *sampleTest) awaitEqual(t *testing.T) {
	t.Helper()
	want := byID(s.caller.Call(t, "list", dict{}).Result(t).(dict)["users"].([]any))
	var got dict
	for deadline := time.Now().Add(harness.Timeout); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if got = byID(s.users(t, "")); reflect.DeepEqual(got, want) {
			return
		}
	}
	t.Fatalf("the copy has\n%v, the service has\n%v", got, want)
}

func byID(users []any) dict {
	all := dict{}
	for _, u := range users {
		id, _ := json.Marshal(u.(dict)["id"])
		all[string(id)] = u
	}
	return all
}

// make carries a request out, and returns its notification.
func (s *sampleTest) make(t *testing.T, operation string, args dict) harness.Notification {
	t.Helper()
	s.caller.Call(t, operation, args).Result(t)
	return s.subscriber.Next(t)
}

func (s *sampleTest) create(t *testing.T, name string, account int) (id any, n harness.Notification) {
	t.Helper()
	n = s.make(t, "create", dict{"name": name, "email": name + "@example.org", "github": dict{"id": account, "access_token": "t"}})
	return n.Value.(dict)["id"], n
}

func (s *sampleTest) rename(t *testing.T, id any, name string) {
	t.Helper()
	s.make(t, "patch", dict{"user_id": id, "ops": []any{dict{"op": "replace", "path": "/name", "value": name}}})
}

// miss renames a user, without a notification for the sample, and then gives it a picture.
func (s *sampleTest) miss(t *testing.T, id any, name string) {
	t.Helper()
	s.missed(t, id, name)
	s.make(t, "patch", dict{"user_id": id, "ops": []any{dict{"op": "add", "path": "/picture_url", "value": "of " + name}}})
}

func (s *sampleTest) missed(t *testing.T, id any, name string) {
	t.Helper()
	if err := s.channel.QueueUnbind(sampleQueue, "notifications.user.#", "amq.topic", nil); err != nil {
		t.Fatal(err)
	}
	s.rename(t, id, name)
	if err := s.channel.QueueBind(sampleQueue, "notifications.user.#", "amq.topic", false, nil); err != nil {
		t.Fatal(err)
	}
}

// repeat sends a notification again.
func (s *sampleTest) repeat(t *testing.T, n harness.Notification) {
	t.Helper()
	if err := s.channel.Publish("amq.topic", n.Key, false, false, amqp.Publishing{
		Body: n.Body, MessageId: n.MessageID, DeliveryMode: amqp.Persistent,
		Headers: amqp.Table{"schema": int32(1), "sequence": n.Sequence, "committed_at": n.CommittedAt.Format("2006-01-02T15:04:05.000000Z")},
	}); err != nil {
		t.Fatal(err)
	}
	s.subscriber.Next(t)
}

// The sample of PROTOCOL.md keeps a copy of the users, whatever is missed or repeated.
func TestSample(t *testing.T) {
	site := harness.NewSite(t)
	site.Serve(t)
	before := &sampleTest{caller: site.NewCaller(t), subscriber: site.Subscribe(t)}
	ada, _ := before.create(t, "Ada", 1)
	bo, created := before.create(t, "Bo", 2)
	cy, _ := before.create(t, "Cy", 3)
	before.rename(t, cy, "Cy 2")

	s := startSample(t, site.AMQPURL)
	s.caller, s.subscriber = before.caller, before.subscriber
	s.awaitEqual(t)

	t.Run("changes", func(t *testing.T) {
		s.rename(t, ada, "Ada 2")
		s.make(t, "delete", dict{"user_id": bo})
		s.create(t, "Di", 4)
		s.awaitEqual(t)
	})
	t.Run("repeats_are_skipped", func(t *testing.T) {
		s.repeat(t, created)
		s.rename(t, ada, "Ada 3") // after the repeat in the queue
		s.awaitEqual(t)
	})
	t.Run("missed_change_of_a_user_of_the_snapshot", func(t *testing.T) {
		s.miss(t, cy, "Cy 3")
		s.awaitEqual(t)
	})
	t.Run("missed_change", func(t *testing.T) {
		s.miss(t, ada, "Ada 4")
		s.awaitEqual(t)
	})
	t.Run("damaged_position", func(t *testing.T) {
		s.users(t, "damage")
		s.miss(t, ada, "Ada 5")
		s.awaitEqual(t)
	})
	t.Run("other_schema", func(t *testing.T) {
		s.missed(t, ada, "Ada 6")
		s.channel.Publish("amq.topic", "notifications.user.patch", false, false, amqp.Publishing{
			Body: []byte(`{}`), Headers: amqp.Table{"schema": int32(2)},
		})
		s.awaitEqual(t)
	})
}
