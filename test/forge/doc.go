// Package forge builds valid and hostile tokens by hand. It uses neither a JWT library nor the parser that verifies
// tokens, so that it does not repeat their mistakes. The tests of auth and of the whole gateway use these tokens.
package forge
