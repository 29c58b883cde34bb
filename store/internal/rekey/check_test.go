package rekey_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/rekey"
	"github.com/glotpod/ident/store/internal/storetest"
)

// checkKeyring returns the log of CheckKeyring.
func checkKeyring(ctx context.Context, h *storetest.Harness, keys ...[32]byte) []observer.LoggedEntry {
	h.T.Helper()
	core, logs := observer.New(zap.DebugLevel)
	h.Options.Log = zap.New(core)
	openWithKeys(h, keys...).CheckKeyring(ctx)
	return logs.All()
}

func TestCheckKeyring(t *testing.T) {
	t.Run("logs_lost_and_later_keys", testCheckKeyringLogsLostAndLaterKeys)
	t.Run("sample_is_small_with_both_ends", testCheckKeyringSampleIsSmallWithBothEnds)
	t.Run("blocked_check_gives_up", testCheckKeyringBlockedCheckGivesUp)
}

func testCheckKeyringLogsLostAndLaterKeys(t *testing.T) {
	h, ids := startStale(t, 12)
	for name, c := range map[string]struct {
		keys [][32]byte
		want string
	}{
		"all keys are there":       {[][32]byte{oldKey, newKey}, ""},
		"one is not the first":     {[][32]byte{newKey, oldKey}, "info map[sampled:24 stale:24]"},
		"one is lost":              {[][32]byte{newKey}, fmt.Sprintf("error map[sampled:24 unreadable:24 user_ids:%v]", ids[:10])},
		"one is lost, one is late": {[][32]byte{lostKey, newKey}, fmt.Sprintf("error map[sampled:24 unreadable:24 user_ids:%v]", ids[:10])},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, entry := range checkKeyring(t.Context(), h, c.keys...) {
				got = append(got, fmt.Sprint(entry.Level, " ", entry.ContextMap()))
			}
			if strings.Join(got, "\n") != c.want {
				t.Errorf("logged %q, want %q", got, c.want)
			}
		})
	}
	runRekey(h, store.RekeyOptions{})
	if logged := checkKeyring(t.Context(), h, newKey); len(logged) != 0 {
		t.Errorf("after rekey, logged %v", logged)
	}
}

func testCheckKeyringSampleIsSmallWithBothEnds(t *testing.T) {
	h := storetest.Start(t)
	h.Exec("INSERT INTO users (id, name, email_address) SELECT n, '', n FROM generate_series(1, 20000) AS n")
	// One service has few accounts. The ids of the other one are in two clusters.
	h.Exec("INSERT INTO services (user_id, sv_id, sv_name, access_token) SELECT n, n, 'gh', 'none' FROM generate_series(1, 20000) AS n WHERE n NOT BETWEEN 5000 AND 19000")
	h.Exec("INSERT INTO services (user_id, sv_id, sv_name, access_token) SELECT n, n, 'fb', 'none' FROM generate_series(15000, 15001) AS n")
	h.Exec("INSERT INTO services (user_id, sv_id, sv_name, access_token) VALUES (15002, 15002, 'fb', convert_to(repeat('large', 10000), 'utf8'))")
	before := h.Value(storetest.SequentialScans)
	logged := checkKeyring(t.Context(), h, newKey)
	if len(logged) != 1 {
		t.Fatalf("logged %v", logged)
	}
	fields := logged[0].ContextMap()
	if n := fields["sampled"].(int64); n != fields["unreadable"] || n < 67 || n > 200 {
		t.Errorf("sampled %v", fields)
	}
	if after := h.Value(storetest.SequentialScans); after != before {
		t.Error("a whole table was read")
	}
	sampled, err := rekey.New(h.OpenPool(), h.Options.Keyring, h.Options.Log).SampledRows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"gh 1", "gh 20000", "fb 15000", "fb 15001"} {
		if !slices.Contains(sampled, want) {
			t.Errorf("%s is not in the sample", want)
		}
	}
	if slices.Contains(sampled, "fb 15002") {
		t.Error("a large token was read")
	}
}

func testCheckKeyringBlockedCheckGivesUp(t *testing.T) {
	h, _ := startStale(t, 1)
	foreign := storetest.Begin(t, h.Connect(t))
	if _, err := foreign.Exec(t.Context(), "LOCK TABLE services"); err != nil {
		t.Fatal(err)
	}
	if logged := checkKeyring(t.Context(), h, newKey); len(logged) != 1 || logged[0].Level != zap.WarnLevel {
		t.Errorf("logged %v", logged)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if logged := checkKeyring(ended, h, newKey); len(logged) != 0 {
		t.Errorf("a cancelled check logs %v", logged)
	}
}
