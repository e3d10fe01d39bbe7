// Copyright (c) 2026, the alwayson.hermes authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package keys

import "errors"

// ErrLeftOut is what every key says whose service this build of SOPS has no client of.
var ErrLeftOut = errors.New("left out of this build")

// LeftOut has the methods of such a key.
type LeftOut struct{}

func (*LeftOut) Encrypt([]byte) error          { return ErrLeftOut }
func (*LeftOut) EncryptIfNeeded([]byte) error  { return ErrLeftOut }
func (*LeftOut) EncryptedDataKey() []byte      { return nil }
func (*LeftOut) SetEncryptedDataKey([]byte)    {}
func (*LeftOut) Decrypt() ([]byte, error)      { return nil, ErrLeftOut }
func (*LeftOut) NeedsRotation() bool           { return false }
func (*LeftOut) ToString() string              { return ErrLeftOut.Error() }
func (*LeftOut) ToMap() map[string]interface{} { return nil }
func (*LeftOut) TypeToIdentifier() string      { return ErrLeftOut.Error() }
