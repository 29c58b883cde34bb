package harness

import "os"

// Long reports whether tests are to run in their long form, as in "make test-long":
// more samples, more seeds, longer loads. The short form checks each promise, too.
func Long() bool { return os.Getenv("GLOTPOD_IDENT_TEST_LONG") != "" }
