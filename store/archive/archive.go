package archive

// Format and Version are what the first line says of itself.
const (
	Format  = "glotpod.ident users"
	Version = 1
)

// Tokens says what an archive holds of access tokens.
type Tokens string

const (
	Sealed Tokens = "sealed" // as they are in the database
	Omit   Tokens = "omit"   // nothing
)

// A Header is the first line.
type Header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Tokens  Tokens `json:"tokens"`
	LastID  int64  `json:"last_id"`            // the greatest there was, 0 if there was none
	AfterID int64  `json:"after_id,omitempty"` // 0: the archive has all users
}

// A User is a line between the first and the last.
type User struct {
	ID         int64    `json:"id"`
	Name       string   `json:"name"`
	Email      string   `json:"email"`
	PictureURL *string  `json:"picture_url,omitempty"`
	GitHub     *Account `json:"github,omitempty"`
	Facebook   *Account `json:"facebook,omitempty"`
}

// An Account is a user's account with another service.
type Account struct {
	ID    int64  `json:"id"`
	Token string `json:"access_token,omitempty"` // sealed; "" where it is left out
}

// An End is the last line.
type End struct {
	End   bool  `json:"end"`
	Users int64 `json:"users"`
}
