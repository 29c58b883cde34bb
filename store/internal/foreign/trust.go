package foreign

import "time"

// A trust is the state of a Watcher: whether the cached users may be trusted.
type trust struct {
	changed func(bool) // called when trusted changes
	trusted bool
	written time.Time // the last foreign write; zero: none
}

// listening says that each foreign write would be noticed.
func (t *trust) listening() {
	if t.written.IsZero() || time.Since(t.written) >= calmAfter {
		t.set(true)
	}
}

// wrote says that there was a foreign write.
func (t *trust) wrote() {
	t.set(false)
	t.written = time.Now()
}

// lost says that foreign writes are not noticed any more.
func (t *trust) lost() { t.set(false) }

func (t *trust) set(trusted bool) {
	if trusted != t.trusted {
		t.trusted = trusted
		t.changed(trusted)
	}
}
