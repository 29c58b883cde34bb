package users

import (
	"os"
	"path/filepath"
	"testing"
)

// Between opening the file and locking it, another export may come to its end.
func TestAFileThatHasComeToItsPlaceIsNotLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	partial, err := os.Create(path + ".partial")
	if err != nil {
		t.Fatal(err)
	}
	f := &exportFile{path: path, partial: partial}
	defer f.close()
	if err := os.Rename(path+".partial", path); err != nil {
		t.Fatal(err)
	}
	if f.lock() == nil {
		t.Error("what is in its place would be written again")
	}
	if err := os.WriteFile(path+".partial", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f.lock() == nil {
		t.Error("what is in its place would be written again, beside the next")
	}
}
