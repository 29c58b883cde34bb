package client

import "fmt"

// Apply makes the difference that a patch has made in a [Change]: it sets or removes the value at
// the path of each operation, whatever is there. So differences may be applied once more, from any
// earlier one to the last one, and the result is the same. Members that User does not have are passed
// over.
//
// If it returns an error, ops is no difference that the service sends, and u is unchanged. An
// Account that u points to is replaced and not changed, so copies of u may share it.
func (u *User) Apply(ops []Op) error {
	changed := *u
	for i := range ops {
		if err := changed.apply(&ops[i]); err != nil {
			return fmt.Errorf("%s at %s: %w", ops[i].Op, ops[i].Path, err)
		}
	}
	*u = changed
	return nil
}

func (u *User) apply(o *Op) (err error) {
	value := o.Value
	switch o.Op {
	case "add", "replace":
	case "remove":
		value = nil
	default:
		return fmt.Errorf("%w: the operation is not of a difference", ErrMalformed)
	}
	switch o.Path {
	case "/name":
		err = set(&u.Name, value)
	case "/email":
		err = set(&u.Email, value)
	case "/picture_url":
		err = set(&u.PictureURL, value)
	case "/github":
		u.GitHub, err = accountOf(value)
	case "/github/id", "/github/access_token":
		u.GitHub, err = u.GitHub.with(o.Path[len("/github/"):], value)
	case "/facebook":
		u.Facebook, err = accountOf(value)
	case "/facebook/id", "/facebook/access_token":
		u.Facebook, err = u.Facebook.with(o.Path[len("/facebook/"):], value)
	}
	return err
}

// set sets a field to a value, or to the zero value if that is nil.
func set[T any](field *T, value any) error {
	v, ok := value.(T)
	if !ok && value != nil {
		return fmt.Errorf("%w: the value is a %T", ErrMalformed, value)
	}
	*field = v
	return nil
}

// accountOf returns the account that a value of a patch is, nil for none.
func accountOf(value any) (a *Account, err error) {
	var members map[string]any
	if err := set(&members, value); err != nil || value == nil {
		return nil, err
	}
	a = new(Account)
	for key, v := range members {
		if a, err = a.with(key, v); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// with returns a copy of an account, which may be nil, with another value of a member.
func (a *Account) with(key string, value any) (changed *Account, err error) {
	changed = new(Account)
	if a != nil {
		*changed = *a
	}
	switch key {
	case "id":
		err = set(&changed.ID, value)
	case "access_token":
		err = set(&changed.AccessToken, value)
	}
	return changed, err
}
