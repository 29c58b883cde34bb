package operate

import (
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/glotpod/ident/cmd/systemtest/harness"
)

// callService runs glotpod-ident call.
func callService(t *testing.T, s *harness.Site, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	// It has no business with the database.
	env := harness.Settings{}
	for key, value := range s.Settings {
		if strings.HasPrefix(key, "amqp.") {
			env[key] = value
		}
	}
	p := harness.Launch(t, env.Environ(), append([]string{"call"}, args...)...)
	return p.AwaitExit(t, harness.Timeout), p.Stdout.String(), p.Stderr.String()
}

func TestCall(t *testing.T) {
	t.Parallel()
	t.Run("prints_JSON", testCallPrintsJSON)
	t.Run("no_reply", testCallNoReply)
}

func testCallPrintsJSON(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	s.Serve(t)
	prints := func(want any, args ...string) {
		t.Helper()
		status, stdout, stderr := callService(t, s, args...)
		if status != 0 || stderr != "" {
			t.Errorf("call %q ended with %d: %s", args, status, stderr)
			return
		}
		got := harness.FromJSON(t, []byte(stdout))
		if page, ok := got.(dict); ok && page["users"] != nil {
			if after, _ := page["after"].(string); after == "" {
				t.Errorf("call %q: %v has no position", args, got)
			}
			delete(page, "after")
		}
		if !reflect.DeepEqual(got, harness.Normalize(want)) {
			t.Errorf("call %q: got %v, want %v", args, got, want)
		}
	}
	fails := func(code string, args ...string) {
		t.Helper()
		status, stdout, stderr := callService(t, s, args...)
		if status != 1 || stdout != "" || !strings.Contains(stderr, code) {
			t.Errorf("call %q ended with %d: %s%s", args, status, stdout, stderr)
		}
	}
	prints(dict{"user_id": 1}, "create", "name=s3cret Ada", "email=s3cret@secret.example", "github.id=9223372036854775807", "github.access_token=s3cret-1")
	ada := dict{"id": 1, "name": "s3cret Ada", "email": "s3cret@secret.example", "github": dict{"id": int64(1<<63 - 1), "access_token": "***"}}
	prints(ada, "get", "user_id=1")
	prints(ada, "get", "email=s3cret@secret.example", "github_id=9223372036854775807", "user_id:=null")
	ada["github"].(dict)["access_token"] = "s3cret-1"
	prints(ada, "get", "--show-tokens", "user_id=1")
	prints(ada, "get", "user_id=1", "--show-tokens")

	const ops = `[{"op": "replace", "path": "/github/access_token", "value": "s3cret-2"}, {"op": "add", "path": "/facebook", "value": {"id": 3, "access_token": "s3cret-3"}},
		{"op": "test", "path": "/id", "value": 1}]`
	masked := func(two, three string) list {
		return list{op("replace", "/github/access_token", two), op("add", "/facebook", dict{"id": 3, "access_token": three}), op("test", "/id", 1)}
	}
	prints(masked("***", "***"), "patch", "user_id=1", "--ops", ops)
	prints(masked("s3cret-2", "s3cret-3"), "--show-tokens", "patch", "--ops="+ops, "user_id=1")
	prints(dict{"users": list{dict{"id": 1, "name": "s3cret Ada", "email": "s3cret@secret.example", "github": dict{"id": int64(1<<63 - 1)}, "facebook": dict{"id": 3}}}},
		"list", "name=ada", "page_size=10")
	prints(dict{"user_id": 1}, "delete", "--message-id=s3cret-again", "user_id=1")
	prints(dict{"user_id": 1}, "delete", "--message-id=s3cret-again", "user_id=1")

	fails("not_found", "get", "user_id=1")
	fails("bad_request", "create", "name=s3cret")
	fails("bad_request", "get")
	fails("operation_not_found", "nope", "user_id=1")
	for _, args := range [][]string{{}, {"get", "user_id"}, {"get", "user_id=s3cret"}, {"get", "user_id:={"}, {"patch", "user_id=1", "--ops", "["},
		{"get", "--nope"}, {"get", "a=1", "a=2"}, {"get", "--timeout=soon"}} {
		if status, stdout, stderr := callService(t, s, args...); status != 2 || stdout != "" || stderr == "" {
			t.Errorf("call %q ended with %d: %s", args, status, stdout+stderr)
		}
	}
}

func testCallNoReply(t *testing.T) {
	t.Parallel()
	s := harness.NewSite(t)
	if status, _, stderr := callService(t, s, "get", "user_id=1"); status != 3 || stderr == "" {
		t.Errorf("where no service ever was, call ended with %d: %s", status, stderr)
	}
	c := s.NewCaller(t)
	c.DeclareQueue(t)
	if err := c.Channel.QueueBind(harness.RequestQueue, "rpc.user.#", "amq.topic", false, nil); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if status, _, stderr := callService(t, s, "get", "user_id=1", "--timeout=1s"); status != 3 || stderr == "" {
		t.Errorf("where no service is, call ended with %d: %s", status, stderr)
	}
	if took := time.Since(start); took < time.Second || took > harness.GiveUpTimeout {
		t.Errorf("call with a timeout of 1s took %v", took)
	}
	s.Settings["amqp.port"] = harness.FreePort(t)
	if status, _, stderr := callService(t, s, "get", "user_id=1"); status != 129 || stderr == "" {
		t.Errorf("where no broker is, call ended with %d: %s", status, stderr)
	}
	s.Settings["amqp.prot"] = "1"
	if status, _, stderr := callService(t, s, "get", "user_id=1"); status != 78 || stderr == "" {
		t.Errorf("with wrong settings, call ended with %d: %s", status, stderr)
	}
}

func TestKeygen(t *testing.T) {
	t.Parallel()
	status, key, stderr := harness.Run(t, harness.Settings{}.Environ(), "keygen")
	key = strings.TrimSuffix(key, "\n")
	if b, err := base64.URLEncoding.DecodeString(key); status != 0 || err != nil || len(b) != 32 {
		t.Fatalf("keygen ended with %d: %v %s", status, err, stderr)
	}
	if _, other, _ := harness.Run(t, harness.Settings{}.Environ(), "keygen"); other == key+"\n" {
		t.Error("keygen printed one key twice")
	}
	s := harness.NewSite(t)
	v := s.Serve(t, harness.Settings{"database.encryption_key": key})
	v.ExtraSecrets = append(v.ExtraSecrets, key)
	c := s.NewCaller(t)
	u := c.Create(t, harness.NewUser())
	c.Call(t, "get", dict{"user_id": u["id"]}).IsResult(t, u)
}

func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, says string }{
		{"--help", "GLOTPOD_IDENT_SETTINGS"},
		{"help call", "--show-tokens"},
		{"settings", "database.encryption_key"},
		{"version", "glotpod-ident "},
		{"--version", "glotpod-ident "},
	} {
		status, stdout, stderr := harness.Run(t, harness.Settings{}.Environ(), strings.Fields(c.args)...)
		if status != 0 || !strings.Contains(stdout, c.says) || stderr != "" {
			t.Errorf("glotpod-ident %s ended with %d: %s", c.args, status, stdout+stderr)
		}
	}
	for _, args := range []string{"nope", "--nope", "serve nope", "migrate --nope", "rekey --batch 0", "rekey --rate -1", "keygen nope", "serve --nope", "settings amqp.prot"} {
		status, stdout, stderr := harness.Run(t, harness.Settings{}.Environ(), strings.Fields(args)...)
		if status != 2 || stdout != "" || !strings.Contains(stderr, `--help"`) {
			t.Errorf("glotpod-ident %s ended with %d: %s", args, status, stdout+stderr)
		}
	}
}
