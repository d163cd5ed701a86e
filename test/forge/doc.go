// Package forge builds tokens by hand, good and hostile. Nothing of it goes through a JWT library or the parser
// that verifies tokens, so that a mistake of theirs is not repeated here. The tests of auth and those of the whole
// gateway present what it makes.
package forge
