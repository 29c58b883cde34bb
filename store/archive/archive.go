package archive

// Format and Version are in the first line of each archive.
const (
	Format  = "glotpod.ident users"
	Version = 1
)

// Tokens says whether an archive contains access tokens.
type Tokens string

const (
	Sealed Tokens = "sealed" // as in the database
	Omit   Tokens = "omit"   // none
)

// A Header is the first line of an archive.
type Header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Tokens  Tokens `json:"tokens"`
	LastID  int64  `json:"last_id"`            // the greatest id when the export began; 0: there was no user
	AfterID int64  `json:"after_id,omitempty"` // users up to this id were left out; 0: none
}

// A User is a line between the first and the last.
type User struct {
	ID         int64    `json:"id"`
	Name       string   `json:"name"`
	Email      string   `json:"email"`
	PictureURL *string  `json:"picture_url,omitempty"`
	GitHub     *Account `json:"github,omitempty"`
	Facebook   *Account `json:"facebook,omitempty"`
	Sequence   int64    `json:"sequence,omitempty"` // of the last change; 0: there was none
}

// An Account is a user's account with another service.
type Account struct {
	ID    int64  `json:"id"`
	Token string `json:"access_token,omitempty"` // encrypted; "" if omitted
}

// An End is the last line of an archive.
type End struct {
	End   bool  `json:"end"`
	Users int64 `json:"users"`
}
