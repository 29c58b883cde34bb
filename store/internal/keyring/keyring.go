// Package keyring encrypts what must not be readable in the database, above all access
// tokens, as Fernet tokens (https://github.com/fernet/spec).
package keyring

import (
	"errors"

	"github.com/fernet/fernet-go"
)

// A Keyring encrypts and decrypts with a list of keys. It is safe for concurrent use.
type Keyring struct {
	keys []*fernet.Key
}

// ErrNoKey means that no key of the keyring decrypts an encrypted value.
var ErrNoKey = errors.New("no key decrypts the value")

// New returns a keyring that encrypts with the first of keys and decrypts with each of them.
// There must be at least one key.
func New(keys ...[32]byte) *Keyring {
	k := new(Keyring)
	for i := range keys {
		key := fernet.Key(keys[i])
		k.keys = append(k.keys, &key)
	}
	return k
}

// Seal encrypts plain with the first key and returns the text of a Fernet token.
func (k *Keyring) Seal(plain []byte) ([]byte, error) {
	return fernet.EncryptAndSign(plain, k.keys[0])
}

// A Key says which key of a keyring decrypts an encrypted value.
type Key int

const (
	NoKey Key = iota
	FirstKey
	LaterKey
)

// OpenWithKey decrypts an encrypted value of any age and returns which key decrypts it.
func (k *Keyring) OpenWithKey(sealed []byte) (plain []byte, key Key) {
	if plain := fernet.VerifyAndDecrypt(sealed, 0, k.keys[:1]); plain != nil {
		return plain, FirstKey
	}
	if plain := fernet.VerifyAndDecrypt(sealed, 0, k.keys[1:]); plain != nil {
		return plain, LaterKey
	}
	return nil, NoKey
}

// Open decrypts an encrypted value of any age. The error is ErrNoKey.
func (k *Keyring) Open(sealed []byte) ([]byte, error) {
	plain := fernet.VerifyAndDecrypt(sealed, 0, k.keys)
	if plain == nil {
		return nil, ErrNoKey
	}
	return plain, nil
}

// Reseal returns a value encrypted with the first key: the same value if the first key
// decrypts it already. The error is ErrNoKey if no key decrypts it.
func (k *Keyring) Reseal(sealed []byte) ([]byte, error) {
	plain, key := k.OpenWithKey(sealed)
	switch key {
	case NoKey:
		return nil, ErrNoKey
	case FirstKey:
		return sealed, nil
	}
	return k.Seal(plain)
}

// SameContent reports whether two encrypted values contain the same. Values that no key
// decrypts do not.
func (k *Keyring) SameContent(a, b []byte) bool {
	plainA, errA := k.Open(a)
	plainB, errB := k.Open(b)
	return errA == nil && errB == nil && string(plainA) == string(plainB)
}
