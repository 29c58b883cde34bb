package transfer_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/archive"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestMain(m *testing.M) { testservers.Main(m) }

func openImporter(h *storetest.Harness, o store.ImportOptions, change ...func(*store.Options)) *store.Importer {
	h.T.Helper()
	opts := h.Options
	for _, c := range change {
		c(&opts)
	}
	im, err := store.OpenImporter(h.T.Context(), opts, o)
	if err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(im.Close)
	return im
}

// exportUsers reads all users.
func exportUsers(h *storetest.Harness, tokens archive.Tokens) (users []archive.User) {
	h.T.Helper()
	e, err := store.OpenExporter(h.T.Context(), h.Options, tokens)
	if err != nil {
		h.T.Fatal(err)
	}
	defer e.Close()
	for after := int64(0); ; {
		page, err := e.Page(h.T.Context(), after)
		if err != nil {
			h.T.Fatal(err)
		}
		if len(page) == 0 {
			return users
		}
		users = append(users, page...)
		after = page[len(page)-1].ID
	}
}

// importUsers imports users and returns their results, one per line.
func importUsers(h *storetest.Harness, im *store.Importer, users ...archive.User) string {
	h.T.Helper()
	results, err := im.Import(h.T.Context(), users)
	if err != nil {
		h.T.Fatal(err)
	}
	var lines []string
	for i, f := range results {
		kind := []string{"imported", "there", "conflict", "unreadable"}[f.Kind]
		lines = append(lines, strings.TrimSuffix(fmt.Sprintf("%d %s: %s", users[i].ID, kind, f.Reason), ": "))
	}
	return strings.Join(lines, "\n")
}

func TestImport(t *testing.T) {
	t.Run("each_user_has_a_result", testImportEachUserHasAResult)
	t.Run("leaves_ids_for_new_users", testImportLeavesIdsForNewUsers)
	t.Run("dry_run_changes_nothing", testImportDryRunChangesNothing)
	t.Run("tokens_are_sealed_with_the_first_key", testImportTokensAreSealedWithTheFirstKey)
	t.Run("no_id_twice_during_creates", testImportNoIdTwiceDuringCreates)
	t.Run("one_winner_per_email", testImportOneWinnerPerEmail)
	t.Run("sequences_go_on", testImportSequencesGoOn)
}

// testImportSequencesGoOn: the next change of an imported user has a greater number than all
// before, in another database and in the one in which the user was deleted.
func testImportSequencesGoOn(t *testing.T) {
	from, to := storetest.Start(t), storetest.Start(t)
	first, second := from.CreateUser(1), from.CreateUser(2)
	rename := func(h *storetest.Harness, id int64) {
		t.Helper()
		if err := h.RenameUser(h.Store, h.Lease, id, rand.Text()); err != nil {
			t.Fatal(err)
		}
	}
	last := func(h *storetest.Harness, id int64) any {
		return h.Value("SELECT concat_ws(' ', u.sequence, (SELECT sequence FROM ident_log WHERE user_id = id ORDER BY at DESC LIMIT 1)) FROM users AS u WHERE id = $1", id)
	}
	rename(from, first)
	exported := exportUsers(from, archive.Sealed)
	if exported[0].Sequence != 2 || exported[1].Sequence != 1 {
		t.Fatalf("%+v", exported)
	}
	rename(from, first)
	for _, id := range []int64{first, second} {
		from.Write("delete", "", storetest.Args{"user_id": id})
	}
	exported[0].Sequence, exported[1].Sequence = 2, 7 // the log of a change may have been dropped
	for _, c := range []struct {
		h             *storetest.Harness
		first, second string
	}{{from, "5 5", "8 8"}, {to, "3 3", "8 8"}} {
		im := openImporter(c.h, store.ImportOptions{})
		if got := importUsers(c.h, im, exported...); got != fmt.Sprintf("%d imported\n%d imported", first, second) {
			t.Fatal(got)
		}
		rename(c.h, first)
		rename(c.h, second)
		if got := []any{last(c.h, first), last(c.h, second)}; fmt.Sprint(got) != fmt.Sprint([]any{c.first, c.second}) {
			t.Errorf("the sequences are %v, want %s and %s", got, c.first, c.second)
		}
	}
}

func testImportEachUserHasAResult(t *testing.T) {
	h := storetest.Start(t)
	for n := range 3 {
		h.CreateUser(n + 1)
	}
	users := exportUsers(h, archive.Sealed)
	if len(users) != 3 || users[2].GitHub == nil || users[2].GitHub.Token == "" {
		t.Fatalf("%+v", users)
	}
	im := openImporter(h, store.ImportOptions{})
	change := func(u archive.User, id int64, f func(*archive.User)) archive.User {
		u.ID = id
		account := *u.GitHub
		u.GitHub = &account
		u.Email, u.GitHub.ID = fmt.Sprint("new-", id), 1000+id
		f(&u)
		return u
	}
	nothing := func(*archive.User) {}
	one := users[0]
	before := h.Value("SELECT json_agg(s)::text || (SELECT json_agg(u)::text FROM users u) FROM services s")
	got := importUsers(h, im, one,
		change(one, 1, func(u *archive.User) { u.Email, u.GitHub.ID = one.Email, one.GitHub.ID; u.GitHub.Token = "" }),
		change(one, 1, nothing),
		change(one, 1, func(u *archive.User) { u.Name = ""; u.Email, u.GitHub = one.Email, users[1].GitHub }),
		change(one, 1, func(u *archive.User) {
			u.Email, u.GitHub.ID = one.Email, one.GitHub.ID
			u.GitHub.Token = users[1].GitHub.Token
		}),
		change(one, 11, func(u *archive.User) { u.Email = users[1].Email }),
		change(one, 12, func(u *archive.User) { u.GitHub.ID = users[2].GitHub.ID }),
		change(one, 13, func(u *archive.User) { u.Facebook, u.GitHub = u.GitHub, nil; u.Facebook.ID = users[2].GitHub.ID }),
		change(one, 14, func(u *archive.User) { u.GitHub.Token = "nonsense" }),
		change(one, 15, func(u *archive.User) { u.GitHub.Token = "" }),
		change(one, 16, nothing), change(one, 16, nothing), change(one, 16, func(u *archive.User) { u.Name = "other" }),
		change(one, 17, func(u *archive.User) { u.Email = "new-16" }),
		change(one, 18, func(u *archive.User) { u.GitHub.ID = 1016 }),
	)
	want := fmt.Sprintf(`1 there
1 there
1 conflict: the user with this id differs in email, github
1 conflict: the user with this id differs in name, github
1 conflict: the user with this id differs in github.access_token
11 conflict: user %d has this email
12 conflict: user %d has this github account
13 imported
14 unreadable: no key decrypts the access token of its github account
15 unreadable: its github account has no access token
16 imported
16 there
16 conflict: the user with this id differs in name
17 conflict: user 16 has this email
18 conflict: user 16 has this github account`, users[1].ID, users[2].ID)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if after := h.Value("SELECT json_agg(s)::text || (SELECT json_agg(u)::text FROM users u WHERE id < 10) FROM services s WHERE user_id < 10"); after != before {
		t.Errorf("users were\n%s\nand are\n%s", before, after)
	}
	if u := h.User(16); u == nil || u.GitHub.AccessToken != "token-1" {
		t.Errorf("%+v", u)
	}
	if id := h.CreateUser(99); id != 17 {
		t.Errorf("the next user has the id %d", id)
	}
}

func testImportLeavesIdsForNewUsers(t *testing.T) {
	h := storetest.Start(t)
	h.CreateUser(1)
	u := exportUsers(h, archive.Sealed)[0]
	of := func(id int64) archive.User {
		next := u
		next.ID, next.Email, next.GitHub = id, fmt.Sprint("new-", id), &archive.Account{ID: id, Token: u.GitHub.Token}
		return next
	}
	const highest = actor.MaxUserID - 1_000_000
	for _, dryRun := range []bool{true, false} {
		im := openImporter(h, store.ImportOptions{DryRun: dryRun})
		if err := im.ReserveIDs(t.Context(), highest+1); err == nil || !strings.Contains(err.Error(), "setval") {
			t.Errorf("too many ids were reserved: %v", err)
		}
		const want = "9223372036854775807 conflict: with this id, less than 1000000 would be left for new users\n7 imported"
		if got := importUsers(h, im, of(actor.MaxUserID), of(7)); got != want || im.ReservedIDs() != 7 {
			t.Errorf("ids are reserved up to %d: %s", im.ReservedIDs(), got)
		}
	}
	if id := h.CreateUser(100); id != 8 {
		t.Errorf("the next user has the id %d", id)
	}
	if err := openImporter(h, store.ImportOptions{}).ReserveIDs(t.Context(), highest); err != nil {
		t.Error(err)
	}
	if id := h.CreateUser(101); id != highest+1 {
		t.Errorf("the next user has the id %d", id)
	}
	// Someone has raised the sequence before.
	h.Exec("SELECT setval(pg_get_serial_sequence('users', 'id'), 9223372036854775800)")
	im := openImporter(h, store.ImportOptions{})
	if err := im.ReserveIDs(t.Context(), 9223372036854775800); err != nil || im.ReservedIDs() != 9223372036854775800 {
		t.Errorf("%d: %v", im.ReservedIDs(), err)
	}
	if got := importUsers(h, im, of(9223372036854775800)); got != "9223372036854775800 imported" {
		t.Error(got)
	}
}

func testImportDryRunChangesNothing(t *testing.T) {
	h := storetest.Start(t)
	h.CreateUser(1)
	u := exportUsers(h, archive.Omit)[0]
	if u.GitHub.Token != "" {
		t.Error("a token was exported")
	}
	u.ID, u.Email, u.GitHub.ID = 1000, "new", 1000
	if got := importUsers(h, openImporter(h, store.ImportOptions{DryRun: true, EmptyTokens: true}), u); got != "1000 imported" {
		t.Error(got)
	}
	if n := h.Value("SELECT count(*) FROM users"); n != int64(1) {
		t.Errorf("%v users", n)
	}
	if id := h.CreateUser(2); id >= 1000 {
		t.Errorf("the next user has the id %d", id)
	}
	if got := importUsers(h, openImporter(h, store.ImportOptions{EmptyTokens: true}), u, u); got != "1000 imported\n1000 there" {
		t.Error(got)
	}
	if u := h.User(1000); u.GitHub.AccessToken != "" {
		t.Errorf("%+v", u)
	}
}

func testImportTokensAreSealedWithTheFirstKey(t *testing.T) {
	h := storetest.Start(t)
	h.CreateUser(1)
	users := exportUsers(h, archive.Sealed)
	h.Exec("TRUNCATE users, services")
	fresh := func(o *store.Options) { o.Keyring = store.NewKeyring([32]byte{9}, [32]byte{1, 2, 3}) }
	if got := importUsers(h, openImporter(h, store.ImportOptions{}, fresh), users...); got != "1 imported" {
		t.Error(got)
	}
	again := exportUsers(h, archive.Sealed)
	if again[0].GitHub.Token == users[0].GitHub.Token {
		t.Error("a token was not sealed again")
	}
	if got := importUsers(h, openImporter(h, store.ImportOptions{}, fresh), users...); got != "1 there" {
		t.Error(got)
	}
	h.Options.Keyring = store.NewKeyring([32]byte{9})
	h.Store = h.OpenStore()
	if u := h.User(1); u.GitHub.AccessToken != "token-1" {
		t.Errorf("%+v", u)
	}
	// A token that the first key decrypts stays as it is.
	h.Exec("TRUNCATE users, services")
	importUsers(h, openImporter(h, store.ImportOptions{}, fresh), again...)
	if got := exportUsers(h, archive.Sealed); got[0].GitHub.Token != again[0].GitHub.Token {
		t.Error("a token of the first key was sealed again")
	}
}

func testImportNoIdTwiceDuringCreates(t *testing.T) {
	h := storetest.Start(t)
	h.CreateUser(1)
	u := exportUsers(h, archive.Sealed)[0]
	var imported []int64
	drawn := make([][]int64, 4)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range drawn {
		wg.Go(func() {
			for ctx.Err() == nil {
				if id, err := storetest.DrawUserID(context.WithoutCancel(ctx), h.Store); err != nil {
					t.Error(err)
				} else {
					drawn[i] = append(drawn[i], id)
				}
			}
		})
	}
	im := openImporter(h, store.ImportOptions{})
	for range 200 {
		// At the ids that creates are getting.
		last := h.Value("SELECT last_value FROM users_id_seq").(int64)
		next := u
		next.ID, next.Email, next.GitHub = last+3, fmt.Sprint("new-", last), &archive.Account{ID: 1000 + last, Token: u.GitHub.Token}
		if got := importUsers(h, im, next); got != fmt.Sprint(next.ID, " imported") {
			t.Fatal(got)
		}
		imported = append(imported, next.ID)
	}
	stop()
	wg.Wait()
	all := slices.Concat(drawn...)
	slices.Sort(all)
	if n := len(all); len(slices.Compact(all)) != n {
		t.Error("two users got the same id")
	}
	if id, err := storetest.DrawUserID(t.Context(), h.Store); err != nil || id <= slices.Max(imported) {
		t.Errorf("after the import of %d, a new user gets %d: %v", slices.Max(imported), id, err)
	}
}

// Both find that the email is free. The first to commit wins.
func testImportOneWinnerPerEmail(t *testing.T) {
	h := storetest.Start(t)
	h.CreateUser(1)
	u := exportUsers(h, archive.Sealed)[0]
	im := openImporter(h, store.ImportOptions{})
	var wins [2]int
	for n := range 100 {
		next := u
		next.ID, next.Email, next.GitHub = int64(100_000+n), fmt.Sprint("both-", n), &archive.Account{ID: int64(10_000 + n), Token: u.GitHub.Token}
		a := storetest.UserArgs(20_000 + n)
		a["email"] = next.Email
		var wg sync.WaitGroup
		var results []store.ImportResult
		wg.Go(func() {
			var err error
			if results, err = im.Import(t.Context(), []archive.User{next}); err != nil {
				t.Error(err)
			}
		})
		created := h.Write("create", "", a).Refusal == nil
		wg.Wait()
		if imported := results[0].Kind == store.Imported; imported == created {
			t.Fatalf("imported %v, created %v", imported, created)
		} else if imported {
			wins[0]++
		} else {
			wins[1]++
		}
	}
	t.Logf("%d imports and %d creates won", wins[0], wins[1])
	if n := h.Value("SELECT count(*) FROM users"); n != int64(101) {
		t.Errorf("%v users", n)
	}
}

func TestExport(t *testing.T) {
	t.Run("huge_users_have_their_own_page", testExportHugeUsersHaveTheirOwnPage)
}

func testExportHugeUsersHaveTheirOwnPage(t *testing.T) {
	h := storetest.Start(t)
	for i := range 12 {
		h.Exec("INSERT INTO users (id, name, email_address) VALUES ($1, repeat('x', 1000000), $2)", i+1, fmt.Sprint(i))
		h.Exec("INSERT INTO services VALUES ($1::int, $1::int, 'gh', repeat('x', 1000000)::bytea)", i+1)
	}
	e, err := store.OpenExporter(t.Context(), h.Options, archive.Sealed)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for after := range int64(6) {
		page, err := e.Page(t.Context(), 2*after)
		if err != nil || len(page) != 2 || page[0].ID != 2*after+1 || len(page[1].GitHub.Token) != 1_000_000 {
			t.Fatalf("after %d: %d users, %v", 2*after, len(page), err)
		}
	}
	if last, err := e.LastID(t.Context()); err != nil || last != 12 {
		t.Errorf("the last id is %d: %v", last, err)
	}
}
