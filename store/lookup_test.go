package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
	"golang.org/x/text/unicode/norm"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/deploy/testservers"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/internal/storetest"
)

func TestFind(t *testing.T) {
	t.Run("by_each_key", testFindByEachKey)
}

func testFindByEachKey(t *testing.T) {
	h := storetest.Start(t)
	id := h.CreateUser(7)
	h.CreateUser(8)
	email, github := "ada7@example.org", int64(7)
	for name, l := range map[string]actor.Lookup{
		"id":     {UserID: &id},
		"email":  {Email: &email},
		"github": {GitHubID: &github},
		"all":    {UserID: &id, Email: &email, GitHubID: &github},
	} {
		u, err := h.Find(t.Context(), &l)
		if err != nil || u == nil || u.ID != id || u.Name != "Ada 7" || u.GitHub.AccessToken != "token-7" || u.Facebook != nil {
			t.Errorf("by %s: %+v, %v", name, u, err)
		}
	}
	other := int64(8)
	if u, err := h.Find(t.Context(), &actor.Lookup{UserID: &id, GitHubID: &other}); u != nil || err != nil {
		t.Errorf("keys of two users find %+v, %v", u, err)
	}
}

func TestTokens(t *testing.T) {
	t.Run("are_sealed_in_the_database", testTokensAreSealedInTheDatabase)
}

func testTokensAreSealedInTheDatabase(t *testing.T) {
	h := storetest.Start(t, func(o *store.Options) { o.TokensInNotifications = true })
	h.CreateUser(1)
	for _, column := range []string{
		"SELECT string_agg(encode(access_token, 'escape'), '') FROM services",
		"SELECT string_agg(encode(body, 'escape'), '') FROM ident_sealed",
	} {
		if text := h.Value(column).(string); len(text) < 100 || text[:6] != "gAAAAA" {
			t.Errorf("%s: %q is not a Fernet token", column, text)
		}
	}
}

// listNames returns the names that a filter finds, on all pages.
func listNames(h *storetest.Harness, filter string) (names []string) {
	h.T.Helper()
	page := &actor.Page{Size: 2, Name: filter}
	for {
		listed, err := h.List(h.T.Context(), page)
		users, next := listed.Users, listed.NextAfterID
		if err != nil || len(users) > 2 || next != 0 && len(users) != 2 {
			h.T.Fatalf("%.40q: %v, %v, %v", filter, users, next, err)
		}
		for _, u := range users {
			names = append(names, u.Name)
			if u.GitHub.AccessToken != "" {
				h.T.Error("a list contains a token")
			}
		}
		if next == 0 {
			return names
		}
		page.AfterID = next
	}
}

func TestList(t *testing.T) {
	t.Run("pages_and_prefix_search", testListPagesAndPrefixSearch)
	t.Run("impossible_words", testListImpossibleWords)
	t.Run("punctuation_is_no_word", testListPunctuationIsNoWord)
	t.Run("case_and_locale", testListCaseAndLocale)
	t.Run("folding", testListFolding)
	t.Run("huge_users_end_the_page_early", testListHugeUsersEndThePageEarly)
}

func testListPagesAndPrefixSearch(t *testing.T) {
	h := storetest.Start(t)
	names := []string{"Ada Lovelace", "ADELE Goldberg", "Grace Hopper", "José d'Ávila", "Jean-Luc Picard", "Ada-Marie Byron"}
	for i, name := range names {
		a := storetest.UserArgs(i)
		a["name"] = name
		h.Write("create", "", a)
	}
	for filter, want := range map[string][]string{
		"":           names,
		" ' & | ! ":  names,
		"ad":         {"Ada Lovelace", "ADELE Goldberg", "Ada-Marie Byron"},
		"AD lov":     {"Ada Lovelace"},
		"lov ada":    {"Ada Lovelace"},
		"ovelace":    nil,
		"luc":        {"Jean-Luc Picard"},
		"jean-luc":   {"Jean-Luc Picard"},
		"josé":       {"José d'Ávila"},
		"d'á":        {"José d'Ávila"},
		"ada:*":      {"Ada Lovelace", "Ada-Marie Byron"},
		`\' <-> hop`: {"Grace Hopper"},
	} {
		got := listNames(h, filter)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %q, want %q", filter, got, want)
		}
	}
}

func testListImpossibleWords(t *testing.T) {
	h := storetest.Start(t)
	a := storetest.UserArgs(1)
	a["name"] = "zeta " + strings.Repeat("k", 900)
	h.Write("create", "", a)
	var much strings.Builder
	for i := range 300 {
		fmt.Fprintf(&much, "%d%s ", i, strings.Repeat("σ", 1000))
	}
	for filter, found := range map[string]bool{
		"zeta " + strings.Repeat("k", 900):     true,
		"zeta " + strings.Repeat("k", 901):     false,
		"zeta " + strings.Repeat("k", 2046):    false,
		"zeta " + strings.Repeat("k", 2047):    false,
		strings.Repeat("k", 2047):              false,
		"zeta " + strings.Repeat("漢", 700):     false,
		"zeta " + strings.Repeat("Ⱥ", 700):     false, // three bytes each in lower case, not two
		"zeta " + strings.Repeat("zeta–", 900): true,  // one word, 900 times
		"zeta " + strings.Repeat("🙂", 700):     true,
		much.String():                          false,
	} {
		if got := listNames(h, filter); (len(got) == 1) != found {
			t.Errorf("%.20q, of %d bytes: %d", filter, len(filter), len(got))
		}
	}
}

func testListPunctuationIsNoWord(t *testing.T) {
	h := storetest.Start(t)
	var names []string
	for i, name := range []string{"Zeta One", "Zeta – 🙂", "Eta", "-"} {
		a := storetest.UserArgs(i)
		a["name"] = name
		h.Write("create", "", a)
		names = append(names, name)
	}
	for _, nothing := range []string{"-", "...", "'", "\\", "🙂", "–", "\u200b", "\u00a0", "€", "- 🙂 –"} {
		if got := listNames(h, nothing); !slices.Equal(got, names) {
			t.Errorf("%q: %q", nothing, got)
		}
		if got := listNames(h, "zeta "+nothing); !slices.Equal(got, names[:2]) {
			t.Errorf("zeta %q: %q", nothing, got)
		}
	}
}

func testListCaseAndLocale(t *testing.T) {
	for _, c := range []struct {
		locale, encoding string
		finds            map[string][]string // filters by name
	}{
		{"C.UTF-8", "UTF8", map[string][]string{
			"Éloïse":                               {"Éloïse", "ÉLOÏSE", "éloï", "E\u0301loi\u0308se"},
			"Ame\u0301lie":                         {"Amélie", "AMÉLIE", "Amé", "AME\u0301"},
			"Παπαδόπουλος":                         {"Παπαδόπουλος", "ΠΑΠΑΔΌΠΟΥΛΟΣ", "παπαδόπουλοσ", "ΠΑΠ"},
			"ΟΔΥΣΣΕΎΣ":                             {"Οδυσσεύς", "οδυσ", "ΟΔΥΣ", "οδυσσ"},
			"Σ":                                    {"Σ", "σ", "ς"},
			"Weiß":                                 {"weiss", "WEISS", "WEIẞ", "weis"},
			"STRASSER":                             {"Straßer"},
			"İpek":                                 {"ipek", "IPEK", "i\u0307pek", "İP"},
			"홍길동":                                  {"홍길동", "홍", "\u1112\u1169\u11bc\u1100\u1175\u11af"},
			"\u1100\u1175\u11b7\u1109\u1165\u11ab": {"김선", "김"},
			"ＡＤＡ Ｂｙｒｏｎ":                            {"ada byron", "Ｂｙ"},
			"ﬁnn":                                  {"finn", "FI", "ﬁ"},
			"x\u0302y":                             {"X\u0302Y", "x\u0302"},
			"Eta ½":                                {"½", "1⁄2"},
		}},
		{"C", "UTF8", map[string][]string{
			"Éloïse":             {"Éloïse", "Élo", "ÉLO"},
			"Ame\u0301lie":       {"Amélie"},
			"Παπαδόπουλος":       {"Παπαδόπουλος", "Παπαδόπουλοσ"},
			"\u1100\u1175\u11b7": {"김"},
			"ADA":                {"ada"},
		}},
		{"C", "LATIN1", map[string][]string{
			"Éloïse": {"Éloïse", "Élo"},
			"Straße": {"Straß"},
			"ADA":    {"ada"},
		}},
	} {
		t.Run(c.locale+"/"+c.encoding, func(t *testing.T) {
			h := storetest.StartOn(t, testservers.PostgresIn(t, c.locale, c.encoding))
			n := 0
			for name, filters := range c.finds {
				a := storetest.UserArgs(n)
				n++
				a["name"] = name
				h.Write("create", "", a)
				for _, filter := range filters {
					if got := listNames(h, filter); !slices.Contains(got, name) {
						t.Errorf("%q does not find %q", filter, name)
					}
				}
				if got := listNames(h, "q"+name); len(got) > 0 {
					t.Errorf("%q finds %q", "q"+name, got)
				}
			}
		})
	}
}

// testListFolding: two texts are the same for a search if they differ only in case and in
// how the same letters are written, whatever the letter.
func testListFolding(t *testing.T) {
	// Letters that are folded differently, because PostgreSQL has no function for it.
	rare := unicode.RangeTable{R16: []unicode.Range16{{Lo: 'ı', Hi: 'ı', Stride: 1}, {Lo: 0x1c80, Hi: 0x1c88, Stride: 1}}}
	newer := unicode.RangeTable{R32: []unicode.Range32{{Lo: 0x1e030, Hi: 0x1e06d, Stride: 1}}} // than PostgreSQL 15
	fold, upper := cases.Fold(), cases.Upper(language.Und)
	var texts, others []string
	for r := range rune(unicode.MaxRune) {
		if !unicode.In(r, unicode.L, unicode.M, unicode.N) || unicode.In(r, &rare, &newer) {
			continue
		}
		text := "a" + string(r) + "b"
		for _, other := range []string{
			norm.NFC.String(text), norm.NFD.String(text), norm.NFKC.String(text), norm.NFKD.String(text),
			fold.String(text), upper.String(text), strings.ToUpper(text), strings.ToLower(text), strings.ToTitle(text),
		} {
			if other != text {
				texts, others = append(texts, text), append(others, other)
			}
		}
	}
	h := storetest.Start(t)
	differ := h.Value(`SELECT coalesce(array_agg(text || ' is not ' || other), '{}') FROM unnest($1::text[], $2::text[]) AS t (text, other)
		WHERE ident_fold(text) <> ident_fold(other)`, texts, others)
	if d := differ.([]any); len(d) > 0 || len(texts) < 200_000 {
		t.Errorf("of %d pairs %d differ: %q", len(texts), len(d), d[:min(len(d), 20)])
	}
}

func testListHugeUsersEndThePageEarly(t *testing.T) {
	h := storetest.Start(t)
	for i := range 20 {
		h.Exec("INSERT INTO users (id, name, email_address) VALUES ($1, repeat('x', 1000000), $2)", i+1, fmt.Sprint(i))
	}
	page, seen := &actor.Page{Size: 1000}, 0
	for pages := 1; ; pages++ {
		listed, err := h.List(t.Context(), page)
		users, next := listed.Users, listed.NextAfterID
		if err != nil || len(users) == 0 {
			t.Fatal(users, err)
		}
		for _, u := range users {
			if seen++; u.ID != int64(seen) {
				t.Fatalf("user %d at position %d", u.ID, seen)
			}
		}
		if next == 0 {
			if seen != 20 || pages != 5 {
				t.Errorf("%d users on %d pages", seen, pages)
			}
			return
		}
		page.AfterID = next
	}
}
