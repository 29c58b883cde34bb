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

// resolveOutput follows symbolic links from path and returns the path of the file to
// write. If there is a file already, it must be a regular file.
func resolveOutput(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // also for a link whose target does not exist
	case err != nil:
		return "", fmt.Errorf("--output: %w", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("--output must be a regular file, which %s is not; to write to a device or a pipe, redirect standard output", path)
	}
	for {
		target, err := os.Readlink(path)
		switch {
		case err != nil: // not a link
			return path, nil
		case !filepath.IsAbs(target):
			folder, _ := filepath.Split(path)
			target = folder + target // not cleaned, since .. may follow another link
		}
		path = target
	}
}

// An exportFile is written as <path>.partial until it is complete. Only its owner may
// read it, since it contains personal data.
type exportFile struct {
	path     string
	partial  *os.File
	archive  *archive.Writer
	lastID   int64 // the id of the last user in the file
	complete bool  // all users are in the file
}

// openExportFile creates the file or, with o.resume, opens a partial one. It locks the
// file.
func openExportFile(o exportOptions, lastID int64) (*exportFile, error) {
	// A link could lead to a file of another user of the system.
	partial, err := os.OpenFile(o.output+".partial", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the output file: %w", err)
	}
	f := &exportFile{path: o.output, partial: partial, lastID: o.afterID}
	if err := f.prepare(o, lastID); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *exportFile) prepare(o exportOptions, lastID int64) error {
	if err := f.lock(); err != nil {
		return err
	}
	if err := f.partial.Chmod(0o600); err != nil { // the file may have existed
		return fmt.Errorf("restrict access to the output file: %w", err)
	}
	if !o.resume {
		if err := f.partial.Truncate(0); err != nil {
			return fmt.Errorf("truncate the output file: %w", err)
		}
	}
	return f.resume(o.header(lastID))
}

// lock locks the file for this process. Closing the file or the end of the process
// unlocks it.
func (f *exportFile) lock() error {
	path := f.partial.Name()
	opened, err := f.partial.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("open the output file: %w", err)
	case !opened.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	}
	inUse := fmt.Errorf("another export writes %s: wait for it, or use another file with --output", path)
	switch err := syscall.Flock(int(f.partial.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
	case nil:
	case syscall.EWOULDBLOCK:
		return inUse
	default:
		return fmt.Errorf("lock %s: %w", path, err)
	}
	// The process that had locked the file until now has renamed it.
	if there, err := os.Lstat(path); err != nil || !os.SameFile(opened, there) {
		return inUse
	}
	return nil
}

// resume prepares the archive for users after those in the file. It writes h to an empty
// file.
func (f *exportFile) resume(h archive.Header) error {
	found, err := archive.Inspect(f.partial)
	if err != nil {
		return fmt.Errorf("resume %s: %w", f.partial.Name(), err)
	}
	if found.Size > 0 && found.Header.Tokens != h.Tokens {
		return fmt.Errorf("%s was started with --tokens %s", f.partial.Name(), found.Header.Tokens)
	}
	if err := f.partial.Truncate(found.Size); err != nil {
		return fmt.Errorf("truncate an incomplete line: %w", err)
	}
	if _, err := f.partial.Seek(found.Size, io.SeekStart); err != nil {
		return fmt.Errorf("resume %s: %w", f.partial.Name(), err)
	}
	if found.Size == 0 {
		f.archive, err = archive.NewWriter(f.partial, h)
		return err
	}
	f.archive, f.lastID, f.complete = archive.Continue(f.partial, found.Users), found.LastID, found.Ended
	return nil
}

// finish renames the file to its final path. It replaces an older file.
func (f *exportFile) finish() error {
	if err := f.partial.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", f.partial.Name(), err)
	}
	if err := os.Rename(f.partial.Name(), f.path); err != nil {
		return fmt.Errorf("rename the output file: %w", err)
	}
	return nil
}

func (f *exportFile) close() { f.partial.Close() }
