package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// maxFailures is how many wrong tokens an address may send within failuresFor.
	maxFailures = 10
	failuresFor = time.Minute

	// maxAddresses bounds the addresses with failures that are remembered. While there
	// are more, other addresses are refused.
	maxAddresses = 1024
)

var (
	errToken   = errors.New("the token is missing or wrong")
	errGuesses = errors.New("too many wrong tokens came from this address; wait a minute")
	errNoToken = errors.New("the file with the token cannot be used; see the log")
)

// authorize returns an error unless the request has the token.
func (h *Handler) authorize(r *http.Request) (status int, err error) {
	token, err := h.o.Token()
	if err != nil {
		h.unusable.Log(1, zap.Error(err))
		return http.StatusServiceUnavailable, errNoToken
	}
	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		given = ""
	}
	err = h.guard.check(r.RemoteAddr, given, token, time.Now())
	if errors.Is(err, errGuesses) {
		return http.StatusTooManyRequests, err
	}
	return http.StatusUnauthorized, err
}

// A guard compares tokens, and limits how often an address may guess.
type guard struct {
	mu       sync.Mutex // guards the following field; held while tokens are compared
	failures map[netip.Prefix]failures
}

// failures are the wrong tokens of an address.
type failures struct {
	count int
	since time.Time
}

// check returns nil if the given token of an address is the right one.
func (g *guard) check(remote, given, token string, now time.Time) error {
	from := prefixOf(remote)
	g.mu.Lock()
	defer g.mu.Unlock()
	f, known := g.failures[from]
	if known && now.Sub(f.since) >= failuresFor {
		delete(g.failures, from)
		f, known = failures{}, false
	}
	if f.count >= maxFailures || !known && !g.hasRoomLocked(now) {
		return errGuesses
	}
	// Digests have the same length, which the comparison would reveal otherwise.
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(a[:], b[:]) == 1 {
		delete(g.failures, from)
		return nil
	}
	if !known {
		f.since = now
	}
	f.count++
	g.failures[from] = f
	return errToken
}

// hasRoomLocked forgets old failures if there are many, and reports whether those of another
// address can be remembered.
func (g *guard) hasRoomLocked(now time.Time) bool {
	if g.failures == nil {
		g.failures = make(map[netip.Prefix]failures)
	}
	if len(g.failures) < maxAddresses {
		return true
	}
	for from, f := range g.failures {
		if now.Sub(f.since) >= failuresFor {
			delete(g.failures, from)
		}
	}
	return len(g.failures) < maxAddresses
}

// prefixOf returns the address of a client, of an IPv6 address its first 64 bits, which are
// those of a network.
func prefixOf(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{} // such as a Unix socket: all count together
	}
	address := at.Addr().Unmap().WithZone("")
	bits := 64
	if address.Is4() {
		bits = 32
	}
	prefix, _ := address.Prefix(bits) // the number of bits is right
	return prefix
}
