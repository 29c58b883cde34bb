package keyring

import (
	"bytes"
	"errors"
	"testing"
)

func TestKeyring(t *testing.T) {
	old, rotated, other := New([32]byte{2}), New([32]byte{1}, [32]byte{2}), New([32]byte{3})
	plain := []byte("an access token")
	seal := func(t *testing.T, k *Keyring) []byte {
		t.Helper()
		sealed, err := k.Seal(plain)
		if err != nil || bytes.Contains(sealed, plain) {
			t.Fatalf("%q, %v", sealed, err)
		}
		return sealed
	}
	t.Run("every_key_opens", func(t *testing.T) {
		for k, want := range map[*Keyring]Key{rotated: FirstKey, old: LaterKey, other: NoKey} {
			sealed := seal(t, k)
			got, key := rotated.OpenWithKey(sealed)
			if key != want || string(got) != string(plain) && want != NoKey {
				t.Errorf("opened %q with %v, want %v", got, key, want)
			}
			if got, err := rotated.Open(sealed); errors.Is(err, ErrNoKey) != (want == NoKey) || err == nil && string(got) != string(plain) {
				t.Errorf("opened %q, %v", got, err)
			}
		}
	})
	t.Run("reseal_uses_the_first_key", func(t *testing.T) {
		first := seal(t, rotated)
		if again, err := rotated.Reseal(first); err != nil || !bytes.Equal(again, first) {
			t.Errorf("%q became %q, %v", first, again, err)
		}
		again, err := rotated.Reseal(seal(t, old))
		if _, key := rotated.OpenWithKey(again); key != FirstKey || err != nil {
			t.Errorf("resealed with %v, %v", key, err)
		}
		if _, err := rotated.Reseal(seal(t, other)); !errors.Is(err, ErrNoKey) {
			t.Error(err)
		}
	})
	t.Run("same_content", func(t *testing.T) {
		a, b := seal(t, rotated), seal(t, old)
		unreadable := seal(t, other)
		if !rotated.SameContent(a, b) || rotated.SameContent(a, unreadable) || rotated.SameContent(unreadable, unreadable) {
			t.Error("the comparison is wrong")
		}
	})
}

// BenchmarkSeal encrypts and decrypts an access token of the usual length.
func BenchmarkSeal(b *testing.B) {
	k := New([32]byte{1}, [32]byte{2})
	token := []byte("gho_0123456789abcdef0123456789abcdef0123")
	sealed, err := k.Seal(token)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.Seal(token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.Open(sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
}
