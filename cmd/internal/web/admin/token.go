package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"

	"go.uber.org/zap"
)

var (
	errToken   = errors.New("the token is missing or wrong")
	errNoToken = errors.New("the file with the token cannot be used; see the log")
)

// authorize returns an error unless the request has the token. No address is blocked after
// wrong tokens: others may send from the same address, and a random token cannot be guessed.
func (h *Handler) authorize(r *http.Request) (status int, err error) {
	token, err := h.o.Token()
	if err != nil {
		h.unusable.Log(1, zap.Error(err))
		return http.StatusServiceUnavailable, errNoToken
	}
	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer || !isEqual(given, token) {
		return http.StatusUnauthorized, errToken
	}
	return 0, nil
}

// isEqual compares in a time that does not depend on the texts.
func isEqual(given, token string) bool {
	// Digests have the same length, which the comparison would reveal otherwise.
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}
