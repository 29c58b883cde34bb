package users

import (
	"os"
	"path/filepath"
	"testing"
)

// Another export may finish between the opening and the locking of the file.
func TestExportFileLockRefusesARenamedFile(t *testing.T) {
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
		t.Error("the file was renamed, but is locked")
	}
	if err := os.WriteFile(path+".partial", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f.lock() == nil {
		t.Error("the file was renamed and a new partial file exists, but it is locked")
	}
}
