// Copyright (c) 2026, the alwayson.hermes authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package hckms

import (
	"time"

	"github.com/getsops/sops/v3/keys"
)

type MasterKey struct {
	keys.LeftOut
	KeyID, EncryptedKey string
	CreationDate        time.Time
}

func NewMasterKey(string) (*MasterKey, error)                  { return nil, keys.ErrLeftOut }
func NewMasterKeyFromKeyIDString(string) ([]*MasterKey, error) { return nil, nil }
