package store

import "testing"

// BenchmarkSeal seals and opens an access token of the usual length.
func BenchmarkSeal(b *testing.B) {
	k := NewKeyring([32]byte{1}, [32]byte{2})
	token := []byte("gho_0123456789abcdef0123456789abcdef0123")
	sealed, err := k.seal(token)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.seal(token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.open(sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
}
