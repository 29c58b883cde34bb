package users

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/glotpod/ident/store/archive"
)

// exportPlace follows links from a path to the regular file that is there, or is to
// be made there.
func exportPlace(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // nor need it exist where a link leads
	case err != nil:
		return "", fmt.Errorf("--output: %w", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("--output takes a regular file, and %s is none; for a device or a pipe, leave --output out and redirect standard output", path)
	}
	for {
		target, err := os.Readlink(path)
		switch {
		case err != nil: // it is no link
			return path, nil
		case !filepath.IsAbs(target):
			folder, _ := filepath.Split(path)
			target = folder + target // not cleaned: .. may follow another link
		}
		path = target
	}
}

// An exportFile is written under another name until it is whole. Nobody else may
// read it: it tells who the users are.
type exportFile struct {
	path    string
	partial *os.File
	archive *archive.Writer
	lastID  int64 // of the last user in it
	whole   bool  // nothing is left to be written
}

// openExportFile begins a file or, with resume, goes on with one that was broken
// off. Nobody else writes it meanwhile.
func openExportFile(o exportOptions, lastID int64) (*exportFile, error) {
	// A link might lead to a file of others.
	partial, err := os.OpenFile(o.output+".partial", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the file to write: %w", err)
	}
	f := &exportFile{path: o.output, partial: partial, lastID: o.afterID}
	if err := f.begin(o, lastID); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *exportFile) begin(o exportOptions, lastID int64) error {
	if err := f.lock(); err != nil {
		return err
	}
	if err := f.partial.Chmod(0o600); err != nil { // it may have been there
		return fmt.Errorf("keeping the file from others: %w", err)
	}
	if !o.resume {
		if err := f.partial.Truncate(0); err != nil {
			return fmt.Errorf("beginning the file anew: %w", err)
		}
	}
	return f.resume(o.header(lastID))
}

// lock keeps other exports from the file until it is closed, or the process ends.
func (f *exportFile) lock() error {
	path := f.partial.Name()
	opened, err := f.partial.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("opening the file to write: %w", err)
	case !opened.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", path)
	}
	inUse := fmt.Errorf("another export writes %s: let it end, or name another file by --output", path)
	switch err := syscall.Flock(int(f.partial.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
	case nil:
	case syscall.EWOULDBLOCK:
		return inUse
	default:
		return fmt.Errorf("locking %s: %w", path, err)
	}
	// Who held the lock until now has put the file in its place.
	if there, err := os.Lstat(path); err != nil || !os.SameFile(opened, there) {
		return inUse
	}
	return nil
}

// resume finds out what is there, and gets ready to write behind it; where nothing is,
// it begins with h.
func (f *exportFile) resume(h archive.Header) error {
	found, err := archive.Inspect(f.partial)
	if err != nil {
		return fmt.Errorf("going on with %s: %w", f.partial.Name(), err)
	}
	if found.Size > 0 && found.Header.Tokens != h.Tokens {
		return fmt.Errorf("%s was begun with --tokens %s", f.partial.Name(), found.Header.Tokens)
	}
	if err := f.partial.Truncate(found.Size); err != nil {
		return fmt.Errorf("cutting off half a line: %w", err)
	}
	if _, err := f.partial.Seek(found.Size, io.SeekStart); err != nil {
		return fmt.Errorf("going on with %s: %w", f.partial.Name(), err)
	}
	if found.Size == 0 {
		f.archive, err = archive.NewWriter(f.partial, h)
		return err
	}
	f.archive, f.lastID, f.whole = archive.Continue(f.partial, found.Users), found.LastID, found.Ended
	return nil
}

// finish puts the file in its place, where it replaces an older one.
func (f *exportFile) finish() error {
	if err := f.partial.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", f.partial.Name(), err)
	}
	if err := os.Rename(f.partial.Name(), f.path); err != nil {
		return fmt.Errorf("putting the file in its place: %w", err)
	}
	return nil
}

func (f *exportFile) close() { f.partial.Close() }
