package harness

import (
	"testing"

	"github.com/fernet/fernet-go"
)

// Seal encrypts text as the Python service did. The key is in base64url.
func Seal(t *testing.T, key, text string) []byte {
	t.Helper()
	k, err := fernet.DecodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	token, err := fernet.EncryptAndSign([]byte(text), k)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Unseal decrypts what the service has stored. It returns "" if the key does not fit.
func Unseal(t *testing.T, key string, token []byte) string {
	t.Helper()
	k, err := fernet.DecodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(fernet.VerifyAndDecrypt(token, 0, []*fernet.Key{k}))
}
