package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/glotpod/ident/config"
)

// keyText is a key for tests that do not check the key.
const keyText = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="

// keyLine sets the only required setting.
const keyLine = "database.encryption_key = \"" + keyText + "\"\n"

// keyVariable sets it in the environment.
const keyVariable = "GLOTPOD_IDENT__DATABASE__ENCRYPTION_KEY=" + keyText

// write creates a file with that content and returns its path.
func write(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// loadFile loads a settings file with that content, and environment variables.
func loadFile(t testing.TB, content string, environ ...string) (*config.Config, error) {
	t.Helper()
	return config.Load(append(environ, config.SettingsVariable+"="+write(t, content)))
}

// mustLoad is [loadFile] for settings without errors.
func mustLoad(t testing.TB, content string, environ ...string) *config.Config {
	t.Helper()
	c, err := loadFile(t, content, environ...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// faults returns the single errors in the error of Load.
func faults(t testing.TB, err error) []*config.Error {
	t.Helper()
	//lint:ignore errorlint errors.As would find the first error in a joined one
	if one, ok := err.(*config.Error); ok {
		return []*config.Error{one}
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("error %v (%T), want a joined one", err, err)
	}
	var all []*config.Error
	for _, err := range joined.Unwrap() {
		e, ok := errors.AsType[*config.Error](err)
		if !ok {
			t.Fatalf("error %v (%T), want *config.Error", err, err)
		}
		all = append(all, e)
	}
	return all
}
