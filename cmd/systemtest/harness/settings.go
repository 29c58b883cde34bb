package harness

import (
	"maps"
	"os"
	"slices"
	"strings"
)

// programVariable is set in the environment of a process that is to play the program.
const programVariable = "GLOTPOD_IDENT_TEST_PROGRAM"

// Settings are some of the program's, by key, as in "amqp.host".
type Settings map[string]string

// With returns s changed by others.
func (s Settings) With(others ...Settings) Settings {
	all := maps.Clone(s)
	for _, o := range others {
		maps.Copy(all, o)
	}
	return all
}

// Environ returns the environment that gives the program these settings, and
// nothing of the tests' own.
func (s Settings) Environ() []string {
	// Unasked, the race detector delays each exit by a second.
	env := []string{programVariable + "=1", "PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
	for _, key := range slices.Sorted(maps.Keys(s)) {
		env = append(env, "GLOTPOD_IDENT__"+strings.ToUpper(strings.ReplaceAll(key, ".", "__"))+"="+s[key])
	}
	return env
}

// EncryptionKeys is the setting that gives the program these keys.
func EncryptionKeys(keys ...string) Settings {
	return Settings{"database.encryption_key": strings.Join(keys, ",")}
}

// PythonKey is the key of users/testdata/python-service.sql in base64url, and the same
// in base32 and base64.
const (
	PythonKey       = "s3cretKeyOfThePythonServiceUsedInTestsOnly0="
	PythonKeyBase32 = "WN3SW6WST3EOPU4F4PZLMGRHJHVO7COHSSY6OSE5G6WLNQ5HS4WQ===="
)
