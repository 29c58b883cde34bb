package store

import (
	"errors"

	"github.com/fernet/fernet-go"
)

// A Keyring seals what must not be read in the database, access tokens above
// all, as Fernet tokens (https://github.com/fernet/spec). It is safe for
// concurrent use.
type Keyring struct {
	keys []*fernet.Key
}

// errSealed says that none of the keys opens what is stored.
var errSealed = errors.New("no key opens what is sealed")

// NewKeyring returns a keyring that seals with the first of keys and opens with
// any of them. There has to be one at least.
func NewKeyring(keys ...[32]byte) *Keyring {
	k := new(Keyring)
	for i := range keys {
		key := fernet.Key(keys[i])
		k.keys = append(k.keys, &key)
	}
	return k
}

// seal returns the text of a Fernet token.
func (k *Keyring) seal(plain []byte) ([]byte, error) {
	return fernet.EncryptAndSign(plain, k.keys[0])
}

// An opener says which of a keyring's keys opens what is sealed.
type opener int

const (
	noKey opener = iota
	firstKey
	laterKey
)

// openBy returns what was sealed at any time, and by which key.
func (k *Keyring) openBy(token []byte) (plain []byte, by opener) {
	if plain := fernet.VerifyAndDecrypt(token, 0, k.keys[:1]); plain != nil {
		return plain, firstKey
	}
	if plain := fernet.VerifyAndDecrypt(token, 0, k.keys[1:]); plain != nil {
		return plain, laterKey
	}
	return nil, noKey
}

// open returns what was sealed at any time, or errSealed.
func (k *Keyring) open(token []byte) ([]byte, error) {
	plain := fernet.VerifyAndDecrypt(token, 0, k.keys)
	if plain == nil {
		return nil, errSealed
	}
	return plain, nil
}
