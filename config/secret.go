package config

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// sealed is a kind whose value may also be in a file of its own.
type sealed interface {
	kind
	// fromFile converts the content of the file to the value that package toml would return.
	fromFile(text string) any
}

// trimSecret removes from a secret what editors and other programs add to its file or
// variable: a UTF-8 byte order mark at the beginning and one line break at the end. Space
// is kept, because it may belong to a password.
func trimSecret(text string) string {
	text = strings.TrimPrefix(text, "\ufeff")
	if line, ok := strings.CutSuffix(text, "\n"); ok {
		return strings.TrimSuffix(line, "\r")
	}
	return text
}

// ReadPassword returns the password for a new connection. If it is in a file, ReadPassword
// reads that again. While the file is being replaced, it may be missing or empty.
func (p Postgres) ReadPassword() (string, error) {
	return readAgain("database.postgres.password", p.PasswordFile, p.Password)
}

// ReadPassword returns the password for a new connection. If it is in a file, ReadPassword
// reads that again. While the file is being replaced, it may be missing or empty.
func (a AMQP) ReadPassword() (string, error) {
	return readAgain("amqp.password", a.PasswordFile, a.Password)
}

// minAdminToken is the minimum length of the token of operators.
const minAdminToken = 16

// readAdminToken reads the token of operators, which the file has at the start.
func (h *HTTP) readAdminToken() error {
	if h.AdminTokenFile == "" {
		return nil
	}
	content, err := readSmall(h.AdminTokenFile)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", h.AdminTokenFile, err)
	}
	h.adminToken = Hide(trimSecret(content))
	return checkAdminToken(h.AdminTokenFile, h.adminToken.Reveal())
}

func checkAdminToken(file, token string) error {
	if len(token) < minAdminToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Errorf("%s must have one line of %d or more ASCII characters without spaces", file, minAdminToken)
	}
	return nil
}

// AdminToken returns the token of operators. It reads the file again.
func (h HTTP) AdminToken() (string, error) {
	token, err := readAgain("http.admin_token", h.AdminTokenFile, h.adminToken)
	if err != nil {
		return "", err
	}
	return token, checkAdminToken(h.AdminTokenFile, token)
}

// readAgain returns the secret in file, or first, which is the one of the start, if the
// setting called name had no file, or one that can be read only once, such as a pipe. The error
// is no [*Error]: the settings may be right.
func readAgain(name, file string, first Secret) (string, error) {
	if file == "" {
		return first.Reveal(), nil
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return first.Reveal(), nil
	}
	content, err := readSmall(file)
	if err != nil {
		return "", fmt.Errorf("%s: cannot read %s: %w", name+fileSuffix, file, err)
	}
	text := trimSecret(content)
	if text == "" && first.Reveal() != "" {
		return "", fmt.Errorf("%s: %s is empty", name+fileSuffix, file)
	}
	if _, err := plainText(text); err != nil {
		return "", fmt.Errorf("%s: %s %w", name+fileSuffix, file, err)
	}
	return text, nil
}

// secret is a hidden string.
type secret struct{ into *Secret }

func (s secret) String() string { return "text" }

func (s secret) parse(text string) any { return trimSecret(text) }

func (s secret) fromFile(text string) any { return trimSecret(text) }

func (s secret) put(value any) error {
	text, err := plainText(value)
	if err != nil {
		return err
	}
	*s.into = Hide(text)
	return nil
}

// keyList is one encryption key or a list of them.
type keyList struct{ into *[]Key }

func (k keyList) String() string { return "a key, or a list of keys" }

// parse splits a list, which has commas in a variable and lines in a file. If no part is
// a key, the text may be one key with line breaks inside.
func (k keyList) parse(text string) any { return splitKeys(text, ",") }

func (k keyList) fromFile(text string) any { return splitKeys(text, "\n") }

func (k keyList) put(value any) error {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	if len(list) == 0 {
		return errors.New("must have at least one key")
	}
	keys := make([]Key, len(list))
	var faults []string
	for i, member := range list {
		text, err := plainText(member)
		if err == nil {
			keys[i], err = ParseKey(text)
		}
		if err != nil && len(list) > 1 {
			err = fmt.Errorf("key %d of %d %w", i+1, len(list), err)
		}
		if err != nil {
			faults = append(faults, err.Error())
		}
	}
	if faults != nil {
		return errors.New(strings.Join(faults, "; "))
	}
	*k.into = keys
	return nil
}

// warning says which keys are not exact. value was accepted by put.
func (k keyList) warning(value any) string {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	var inexact []string
	for i, member := range list {
		text, _ := member.(string)
		if _, exact, _ := parseKey(text); !exact {
			inexact = append(inexact, strconv.Itoa(i+1))
		}
	}
	switch {
	case inexact == nil:
		return ""
	case len(list) == 1:
		return "the key is not exact base64; it is read as Python's Fernet reads it"
	}
	return fmt.Sprintf("key %s of %d is not exact base64; it is read as Python's Fernet reads it",
		strings.Join(inexact, ", "), len(list))
}

// splitKeys splits text into a list of keys as package toml would return it. If no part is
// a key by itself and the whole text is one, the separators are inside that key.
func splitKeys(text, separator string) []any {
	text = strings.TrimSpace(trimSecret(text))
	var list []any
	isList := false
	for part := range strings.SplitSeq(text, separator) {
		list = append(list, part)
		_, err := ParseKey(part)
		isList = isList || err == nil
	}
	if _, err := ParseKey(text); err == nil && !isList {
		return []any{text}
	}
	return list
}
