/* Keysyms by number: X Window System Protocol, "KEYSYM Encoding"; the XF86 ones: XF86keysym.h. */
#include "display/keysym.h"

#include <linux/input-event-codes.h>
#include <stddef.h>
#include <string.h>

/* The printable characters of a US keyboard, in the order of KEY_1 … KEY_EQUAL, KEY_Q … and so on. */
static const struct {
	unsigned first; /* key of the first character */
	const char *plain, *shifted;
} rows[] = {
	{KEY_1, "1234567890-=", "!@#$%^&*()_+"},
	{KEY_Q, "qwertyuiop[]", "QWERTYUIOP{}"},
	{KEY_A, "asdfghjkl;'`", "ASDFGHJKL:\"~"},
	{KEY_BACKSLASH, "\\zxcvbnm,./", "|ZXCVBNM<>?"},
};

static const struct {
	uint32_t keysym;
	unsigned key;
} others[] = {
	{0x0020, KEY_SPACE},
	{0xff08, KEY_BACKSPACE}, {0xff09, KEY_TAB}, {0xfe20, KEY_TAB} /* left tab: with shift */, {0xff0a, KEY_ENTER},
	{0xff0d, KEY_ENTER}, {0xff13, KEY_PAUSE}, {0xff14, KEY_SCROLLLOCK}, {0xff15, KEY_SYSRQ}, {0xff1b, KEY_ESC},
	{0xffff, KEY_DELETE}, {0xff50, KEY_HOME}, {0xff51, KEY_LEFT}, {0xff52, KEY_UP}, {0xff53, KEY_RIGHT},
	{0xff54, KEY_DOWN}, {0xff55, KEY_PAGEUP}, {0xff56, KEY_PAGEDOWN}, {0xff57, KEY_END}, {0xff61, KEY_SYSRQ},
	{0xff63, KEY_INSERT}, {0xff67, KEY_COMPOSE}, {0xff6b, KEY_PAUSE}, {0xff7f, KEY_NUMLOCK},
	/* keypad: with num lock, and without */
	{0xff8d, KEY_KPENTER}, {0xffaa, KEY_KPASTERISK}, {0xffab, KEY_KPPLUS}, {0xffac, KEY_KPCOMMA},
	{0xffad, KEY_KPMINUS}, {0xffae, KEY_KPDOT}, {0xffaf, KEY_KPSLASH}, {0xffbd, KEY_KPEQUAL},
	{0xffb0, KEY_KP0}, {0xffb1, KEY_KP1}, {0xffb2, KEY_KP2}, {0xffb3, KEY_KP3}, {0xffb4, KEY_KP4},
	{0xffb5, KEY_KP5}, {0xffb6, KEY_KP6}, {0xffb7, KEY_KP7}, {0xffb8, KEY_KP8}, {0xffb9, KEY_KP9},
	{0xff95, KEY_KP7}, {0xff96, KEY_KP4}, {0xff97, KEY_KP8}, {0xff98, KEY_KP6}, {0xff99, KEY_KP2},
	{0xff9a, KEY_KP9}, {0xff9b, KEY_KP3}, {0xff9c, KEY_KP1}, {0xff9d, KEY_KP5}, {0xff9e, KEY_KP0},
	{0xff9f, KEY_KPDOT},
	{0xffbe, KEY_F1}, {0xffbf, KEY_F2}, {0xffc0, KEY_F3}, {0xffc1, KEY_F4}, {0xffc2, KEY_F5}, {0xffc3, KEY_F6},
	{0xffc4, KEY_F7}, {0xffc5, KEY_F8}, {0xffc6, KEY_F9}, {0xffc7, KEY_F10}, {0xffc8, KEY_F11},
	{0xffc9, KEY_F12}, {0xffca, KEY_F13}, {0xffcb, KEY_F14}, {0xffcc, KEY_F15}, {0xffcd, KEY_F16},
	{0xffce, KEY_F17}, {0xffcf, KEY_F18}, {0xffd0, KEY_F19}, {0xffd1, KEY_F20}, {0xffd2, KEY_F21},
	{0xffd3, KEY_F22}, {0xffd4, KEY_F23}, {0xffd5, KEY_F24},
	{0xffe1, KEY_LEFTSHIFT}, {0xffe2, KEY_RIGHTSHIFT}, {0xffe3, KEY_LEFTCTRL}, {0xffe4, KEY_RIGHTCTRL},
	{0xffe5, KEY_CAPSLOCK}, {0xffe6, KEY_CAPSLOCK}, {0xffe7, KEY_LEFTMETA}, {0xffe8, KEY_RIGHTMETA},
	{0xffe9, KEY_LEFTALT}, {0xffea, KEY_RIGHTALT}, {0xffeb, KEY_LEFTMETA}, {0xffec, KEY_RIGHTMETA},
	{0xff7e, KEY_RIGHTALT} /* mode switch */, {0xfe03, KEY_RIGHTALT} /* level 3 shift: AltGr */,
	{0xff20, KEY_COMPOSE},
	{0x1008ff11, KEY_VOLUMEDOWN}, {0x1008ff12, KEY_MUTE}, {0x1008ff13, KEY_VOLUMEUP}, {0x1008ff14, KEY_PLAYPAUSE},
	{0x1008ff15, KEY_STOPCD}, {0x1008ff16, KEY_PREVIOUSSONG}, {0x1008ff17, KEY_NEXTSONG},
};

bool keysym_find(uint32_t keysym, struct keysym_key *key)
{
	*key = (struct keysym_key){0};
	for (size_t i = 0; keysym > 0x20 && keysym < 0x7f && i < sizeof(rows) / sizeof(rows[0]); i++) {
		const char *plain = strchr(rows[i].plain, (int)keysym),
		           *shifted = strchr(rows[i].shifted, (int)keysym);

		if (!plain && !shifted)
			continue;
		key->key = rows[i].first + (unsigned)(plain ? plain - rows[i].plain : shifted - rows[i].shifted);
		key->shift = plain ? KEYSYM_PLAIN : KEYSYM_SHIFTED;
		key->letter = (keysym | 0x20) >= 'a' && (keysym | 0x20) <= 'z';
		return true;
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		if (others[i].keysym == keysym) {
			key->key = others[i].key;
			return true;
		}
	}
	return false;
}
