/* The 82574L against its datasheet: registers, descriptors, offloads, filters, interrupts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "device/network/e1000e.h"
#include "net_fixture.h"

#define BAR     0xe1000000u
#define BAR_X   0xe1100000u /* MSI-X */
#define TX_RING 0x100000u
#define RX_RING 0x110000u
#define RING    64 /* descriptors */
#define TX_DATA 0x200000u
#define RX_DATA 0x300000u
#define RX_STEP 0x4000u

static struct machine *machine;
static unsigned tx_tail, rx_tail;

static uint32_t rd(unsigned offset)
{
	return (uint32_t)load(machine, BAR + offset, 4);
}

static void wr(unsigned offset, uint32_t value)
{
	store(machine, BAR + offset, 4, value);
}

static int setup(void **state)
{
	machine = net_fixture_create(NET_MODEL_E1000E);
	config_write(machine, 0x10, 4, BAR);
	config_write(machine, 0x1c, 4, BAR_X);
	config_write(machine, 4, 2, 7);
	wr(R_CTRL, CTRL_SLU);
	wr(R_IMC, ~0u);
	rd(R_ICR);
	tx_tail = rx_tail = 0;
	return 0;
}

static int teardown(void **state)
{
	net_fixture_destroy(machine);
	return 0;
}

/* ---- rings ---- */

static void start_transmit(void)
{
	wr(R_TX_RING + RING_BAL, TX_RING);
	wr(R_TX_RING + RING_LEN, RING * 16);
	wr(R_TCTL, TCTL_EN);
}

/* One descriptor; it is not given before kick(). */
static void put_tx(uint64_t low, uint32_t word2, uint32_t word3)
{
	uint8_t *at = memory_at(machine, TX_RING + 16 * tx_tail);

	memcpy(at, &low, 8);
	memcpy(at + 8, &word2, 4);
	memcpy(at + 12, &word3, 4);
	tx_tail = (tx_tail + 1) % RING;
}

static void kick(void)
{
	wr(R_TX_RING + RING_TAIL, tx_tail);
}

static void start_receive(uint32_t control, unsigned descriptor_size)
{
	memset(memory_at(machine, RX_RING), 0, RING * 32);
	for (unsigned i = 0; i < RING; i++) {
		uint64_t at = RX_DATA + RX_STEP * i;

		for (unsigned j = 0; j < descriptor_size / 8; j++, at += RX_STEP / 4)
			if (descriptor_size == 32 || j == 0)
				memcpy(memory_at(machine, RX_RING + descriptor_size * i + 8 * j), &at, 8);
	}
	wr(R_RX_RING + RING_BAL, RX_RING);
	wr(R_RX_RING + RING_LEN, RING * descriptor_size);
	wr(R_RX_RING + RING_HEAD, 0);
	rx_tail = 32;
	wr(R_RX_RING + RING_TAIL, rx_tail * descriptor_size / 16);
	wr(R_RCTL, RCTL_EN | RCTL_SECRC | control);
}

static const uint8_t *rx(unsigned index, unsigned size)
{
	return memory_at(machine, RX_RING + size * index);
}

static uint32_t word(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, 4);
	return value;
}

static unsigned half(const uint8_t *at)
{
	return at[0] | (unsigned)at[1] << 8;
}

/* ---- registers ---- */

static uint16_t nvm(unsigned index)
{
	uint32_t value;

	wr(R_EERD, index << 2 | 1);
	value = rd(R_EERD);
	assert_int_equal(value & 3, 2); /* done */
	assert_int_equal(value >> 2 & 0x3fff, index);
	return (uint16_t)(value >> 16);
}

static void nvm_holds_the_address_and_a_checksum(void **state)
{
	uint16_t sum = 0;

	for (unsigned i = 0; i < 0x40; i++)
		sum = (uint16_t)(sum + nvm(i));
	assert_int_equal(sum, 0xbaba);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(nvm(i), card_mac[2 * i] | card_mac[2 * i + 1] << 8);
	assert_int_equal(nvm(5000), 0xffff);
	assert_int_equal(rd(R_RA), 0x53454e52);
	assert_int_equal(rd(R_RA + 4), 0x80000154);
	assert_true(rd(R_EECD) & 0x100); /* present */
	assert_true(rd(R_EECD) & 0x200); /* auto read done */
	wr(R_EEWR, 0xabcdu << 16 | 0x20 << 2 | 1);
	assert_int_equal(rd(R_EEWR) & 2, 2);
	assert_int_equal(nvm(0x20), 0xabcd);
}

static uint32_t mdic(uint32_t operation, unsigned phy, unsigned number, uint16_t value)
{
	wr(R_MDIC, operation | phy << 21 | number << 16 | value);
	assert_true(rd(R_MDIC) & 0x10000000);
	return rd(R_MDIC);
}

static uint16_t phy_read(unsigned number)
{
	return (uint16_t)mdic(0x08000000, 1, number, 0);
}

static void phy_write(unsigned number, uint16_t value)
{
	mdic(0x04000000, 1, number, value);
}

static void phy_answers_by_mdic(void **state)
{
	assert_int_equal(phy_read(2) << 16 | phy_read(3), 0x01410cb1);
	assert_int_equal(phy_read(1) & 0x24, 0x24);          /* negotiated, link */
	assert_true(mdic(0x08000000, 2, 2, 0) & 0x40000000); /* nobody at 2 */
	phy_write(2, 0);
	assert_int_equal(phy_read(2), 0x0141); /* read-only */
	phy_write(22, 3);                      /* registers 16 to 31 are paged, those below are not */
	phy_write(16, 0x1234);
	phy_write(22, 0);
	assert_int_not_equal(phy_read(16), 0x1234);
	phy_write(22, 3);
	assert_int_equal(phy_read(16), 0x1234);
	assert_int_equal(phy_read(2), 0x0141);
	phy_write(22, 700);
	phy_write(16, 1);
	assert_int_equal(phy_read(16), 0);
	phy_write(0, 0x8000);
	assert_int_equal(phy_read(0) & 0x8000, 0); /* reset is over */
	assert_int_equal(phy_read(22), 0);
	wr(R_MDIC, 0x20000000 | 0x08000000 | 1 << 21);
	assert_true(rd(R_ICR) & CAUSE_MDAC);
}

static void link_follows_the_phy_and_the_wire(void **state)
{
	assert_true(rd(R_STATUS) & STATUS_LU);
	assert_true(rd(R_STATUS) & STATUS_FD);
	rd(R_ICR);
	phy_write(0, 0x1940); /* power down */
	assert_false(rd(R_STATUS) & STATUS_LU);
	assert_true(rd(R_ICR) & CAUSE_LSC);
	phy_write(0, 0x1140);
	assert_true(rd(R_STATUS) & STATUS_LU);
	rd(R_ICR);
	close(wire);
	wire = -1;
	pass(machine, 5000000);
	assert_false(rd(R_STATUS) & STATUS_LU);
	assert_int_equal(phy_read(1) & 0x24, 0);
	assert_true(rd(R_ICR) & CAUSE_LSC);
}

static void resets_and_semaphores(void **state)
{
	wr(R_RCTL, RCTL_EN);
	wr(R_MTA + 20, 0x55);
	wr(R_RA, 1);
	wr(R_CTRL, CTRL_RST);
	assert_int_equal(rd(R_CTRL) & CTRL_RST, 0);
	assert_int_equal(rd(R_RCTL), 0);
	assert_int_equal(rd(R_MTA + 20), 0);
	assert_int_equal(rd(R_RA), 0x53454e52);
	assert_true(rd(R_STATUS) & STATUS_GIO_MASTER_ENABLE);
	wr(R_CTRL, CTRL_SLU | CTRL_GIO_MASTER_DISABLE);
	assert_false(rd(R_STATUS) & STATUS_GIO_MASTER_ENABLE);
	wr(R_CTRL, CTRL_SLU | CTRL_PHY_RST);
	wr(R_CTRL, CTRL_SLU);
	assert_true(rd(R_STATUS) & STATUS_PHYRA);
	wr(R_STATUS, 0);
	assert_false(rd(R_STATUS) & STATUS_PHYRA);
	assert_int_equal(rd(R_SWSM) & 1, 0); /* whoever reads 0 has it */
	assert_int_equal(rd(R_SWSM) & 1, 1);
	wr(R_SWSM, 0);
	assert_int_equal(rd(R_SWSM) & 1, 0);
	wr(R_EXTCNF_CTRL, 0x20);
	assert_true(rd(R_EXTCNF_CTRL) & 0x20);
	assert_true(rd(R_EEMNGCTL) & 0x40000);
	assert_int_equal(rd(0x1ff00), 0);
	wr(0x1ff00, 5);
	/* Narrow accesses read parts and write nothing. */
	assert_int_equal(load(machine, BAR + R_VET + 1, 1), 0x81);
	store(machine, BAR + R_VET, 1, 0);
	assert_int_equal(rd(R_VET), 0x8100);
}

static void registers_through_ports(void **state)
{
	config_write(machine, 0x18, 4, 0xc000);
	out(machine, 0xc000, 4, R_VET);
	assert_int_equal(in(machine, 0xc004, 4), 0x8100);
	out(machine, 0xc004, 4, 0x88a8);
	assert_int_equal(rd(R_VET), 0x88a8);
	out(machine, 0xc000, 4, 0x7fffffff);
	assert_int_equal(in(machine, 0xc004, 4), 0);
}

static void table_is_sorted_and_reset_is_whole(void **state)
{
	/* The lookup is a binary search: every register that has a value after a reset is found by it. */
	assert_int_equal(rd(R_PBA), 0x00140014);
	assert_int_equal(rd(R_TIPG), 0x00602008);
	assert_int_equal(rd(R_VET), 0x8100);
	assert_int_equal(rd(R_TX_RING + 0x140), 0x403);
	for (unsigned offset = 0; offset < E1000E_REGISTERS; offset += 4) {
		if (offset == R_ICS || offset == R_CTRL || offset == R_MDIC)
			continue;
		wr(offset, 0);
		rd(offset);
	}
	wr(R_RSSRK + 36, 0x12345678);
	assert_int_equal(rd(R_RSSRK + 36), 0x12345678);
	wr(R_RETA + 124, 0x9abcdef0);
	assert_int_equal(rd(R_RETA + 124), 0x9abcdef0);
}

static void system_time_runs_at_25_mhz(void **state)
{
	uint32_t low;

	wr(R_TIMINCA, 1u << 24 | 40 << 10); /* 40 ns each period, shifted */
	wr(R_SYSTIML, 0);
	wr(R_SYSTIMH, 0);
	pass(machine, 1000000);
	low = rd(R_SYSTIML);
	assert_int_equal(low, 1000000u << 10);
	assert_int_equal(rd(R_SYSTIMH), 0);
	pass(machine, 10000000);
	rd(R_SYSTIML);
	assert_int_equal(rd(R_SYSTIMH), 11000000ull * 1024 >> 32);
}

/* ---- transmit ---- */

static void legacy_frames_go_out(void **state)
{
	uint8_t frame[2000], got[2000];
	size_t size = make_ipv4(frame, false, 301);

	start_transmit();
	memcpy(memory_at(machine, TX_DATA), frame, size);
	put_tx(TX_DATA, 100, 0); /* in three pieces */
	put_tx(TX_DATA + 100, 0, 0);
	put_tx(TX_DATA + 100, (uint32_t)(size - 100) | 0x09000000, 0); /* EOP, RS */
	kick();
	assert_int_equal(wire_receive(machine, got, sizeof(got)), size);
	assert_memory_equal(got, frame, size);
	assert_int_equal(rd(R_TX_RING + RING_HEAD), 3);
	assert_int_equal(memory_at(machine, TX_RING + 32)[12] & 1, 1);
	assert_int_equal(memory_at(machine, TX_RING)[12] & 1, 0);
	assert_int_equal(rd(R_ICR) & (CAUSE_TXDW | CAUSE_TXQE), CAUSE_TXDW | CAUSE_TXQE);
	/* A short one is padded. */
	put_tx(TX_DATA, 20 | 0x01000000, 0);
	kick();
	assert_int_equal(wire_receive(machine, got, sizeof(got)), 60);
	assert_int_equal(got[20] | got[59], 0);
	/* IC: the sum from CSS to the end goes to CSO. */
	put_be16(memory_at(machine, TX_DATA + 40),
	         (uint16_t)~plain_sum(NULL, 0, pseudo_header(frame + 14, 309)));
	put_tx(TX_DATA, (uint32_t)size | 40 << 16 | 0x05000000, 34 << 8);
	kick();
	assert_int_equal(wire_receive(machine, got, sizeof(got)), size);
	assert_true(sums_right(got, 14));
}

/* Context: IPCSS 14, IPCSO 24, TUCSS 34, TUCSO 50; header 54. */
static void put_context(bool tcp, bool segments, unsigned mss)
{
	put_tx(14 | 24 << 8 | 33u << 16 | (uint64_t)(34 | (tcp ? 50 : 40) << 8) << 32,
	       0x20000000 | (tcp ? 0x01000000 : 0) | 0x02000000 | (segments ? 0x04000000 : 0),
	       mss << 16 | (tcp ? 54 : 42) << 8);
}

static void checksums_are_inserted(void **state)
{
	uint8_t frame[2000], got[2000];
	size_t size = make_ipv4(frame, true, 777);
	uint8_t *at = memory_at(machine, TX_DATA);

	start_transmit();
	memcpy(at, frame, size);
	put_be16(at + 24, 0);
	put_be16(at + 50, (uint16_t)~plain_sum(NULL, 0, pseudo_header(frame + 14, 797)));
	put_context(true, false, 0);
	put_tx(TX_DATA, (uint32_t)size | 0x29100000, 0x0300); /* data, EOP, RS; IXSM, TXSM */
	kick();
	assert_int_equal(wire_receive(machine, got, sizeof(got)), size);
	assert_memory_equal(got, frame, size);
	/* Without the options nothing is touched. */
	put_tx(TX_DATA, (uint32_t)size | 0x29100000, 0);
	kick();
	assert_int_equal(wire_receive(machine, got, sizeof(got)), size);
	assert_int_equal(get_be16(got + 24), 0);
}

static void large_packets_are_segmented_and_tagged(void **state)
{
	static uint8_t frame[10000], got[2000];
	size_t size = make_ipv4(frame, true, 4000);
	uint8_t *at = memory_at(machine, TX_DATA);

	start_transmit();
	wr(R_CTRL, CTRL_SLU | CTRL_VME);
	memcpy(at, frame, size);
	put_be16(at + 16, 0); /* as Linux leaves it */
	put_be16(at + 24, 0);
	put_context(true, true, 1460);
	put_tx(TX_DATA, 54 | 0x24100000, 0x0300);                        /* data, TSE */
	put_tx(TX_DATA + 54, 4000 | 0x6d100000, 0x0300 | 0x2007u << 16); /* EOP, TSE, RS, VLE */
	kick();
	for (unsigned i = 0; i < 3; i++) {
		size_t payload = i < 2 ? 1460 : 1080;

		assert_int_equal(wire_receive(machine, got, sizeof(got)), 58 + payload);
		assert_int_equal(get_be16(got + 12), 0x8100);
		assert_int_equal(get_be16(got + 14), 0x2007);
		assert_true(sums_right(got, 18));
		assert_memory_equal(got + 58, frame + 54 + 1460 * i, payload);
		assert_int_equal(got[18 + 20 + 13], i < 2 ? 0x10 : 0x18);
	}
	assert_int_equal(wire_receive(machine, got, sizeof(got)), -1);
	assert_int_equal(rd(R_STATISTICS + 0xf8), 1);
}

static void transmit_counts(void **state)
{
	uint8_t frame[200], got[200];
	size_t size = make_ipv4(frame, false, 58);

	start_transmit();
	memcpy(memory_at(machine, TX_DATA), frame, size);
	memset(memory_at(machine, TX_DATA), 0xff, 6);
	put_tx(TX_DATA, (uint32_t)size | 0x01000000, 0);
	kick();
	wire_receive(machine, got, sizeof(got));
	assert_int_equal(rd(R_STATISTICS + 0x80), 1);        /* GPTC */
	assert_int_equal(rd(R_STATISTICS + 0x80), 0);        /* cleared by reading */
	assert_int_equal(rd(R_STATISTICS + 0x90), size + 4); /* GOTCL */
	assert_int_equal(rd(R_STATISTICS + 0xdc), 1);        /* PTC127 */
	assert_int_equal(rd(R_STATISTICS + 0xf4), 1);        /* BPTC */
	assert_int_equal(rd(R_STATISTICS + 0xf0), 0);
}

static void hostile_transmit_rings(void **state)
{
	uint8_t got[100];

	start_transmit();
	put_tx(UINT64_MAX - 5, 0xffff | 0x09000000, 0); /* not memory: dropped, and done */
	kick();
	assert_int_equal(rd(R_TX_RING + RING_HEAD), 1);
	assert_int_equal(wire_receive(machine, got, sizeof(got)), -1);
	for (unsigned i = 0; i < 40; i++)
		put_tx(TX_DATA, 0xfffff | 0x20100000, 0); /* a frame of 40 MiB */
	put_tx(TX_DATA, 10 | 0x29100000, 0);
	kick();
	assert_int_equal(rd(R_TX_RING + RING_HEAD), tx_tail);
	assert_int_equal(wire_receive(machine, got, sizeof(got)), -1);
	wr(R_TX_RING + RING_TAIL, RING + 5); /* outside of the ring */
	wr(R_TX_RING + RING_LEN, 0);
	wr(R_TX_RING + RING_LEN, 0xfffff);
	wr(R_TX_RING + RING_BAH, ~0u);
	wr(R_TX_RING + RING_TAIL, 0xffff);
	pass(machine, 1000000);
}

/* A ring that is longer than what is done at once is finished later. */
static void long_rings_are_finished(void **state)
{
	wr(R_TX_RING + RING_BAL, TX_RING);
	wr(R_TX_RING + RING_LEN, 0x8000); /* 2048 */
	wr(R_TCTL, TCTL_EN);
	memset(memory_at(machine, TX_RING), 0, 0x8000);
	wr(R_TX_RING + RING_TAIL, 2000);
	assert_true(rd(R_TX_RING + RING_HEAD) < 2000);
	pass(machine, 1000000);
	assert_int_equal(rd(R_TX_RING + RING_HEAD), 2000);
}

/* ---- receive ---- */

static void legacy_descriptors(void **state)
{
	uint8_t frame[2000];
	size_t size = make_ipv4(frame, false, 500);

	start_receive(0, 16);
	wr(R_RXCSUM, RXCSUM_IPOFLD | RXCSUM_TUOFLD);
	wire_send(machine, frame, size);
	assert_memory_equal(memory_at(machine, RX_DATA), frame, size);
	assert_int_equal(half(rx(0, 16) + 8), size);
	assert_int_equal(rx(0, 16)[12], 0x01 | 0x02 | 0x10 | 0x20 | 0x40); /* DD, EOP, UDPCS, TCPCS, IPCS */
	assert_int_equal(rx(0, 16)[13], 0);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 1);
	assert_int_equal(rd(R_ICR) & CAUSE_RXT0, CAUSE_RXT0);
	frame[60] ^= 1;
	wire_send(machine, frame, size);
	assert_int_equal(rx(1, 16)[13], 0x20); /* TCPE */
	frame[25] ^= 1;
	wire_send(machine, frame, size);
	assert_int_equal(rx(2, 16)[13], 0x60); /* and IPE */
	wr(R_RXCSUM, 0);
	wire_send(machine, frame, size);
	assert_int_equal(rx(3, 16)[12], 0x07); /* IXSM: look yourself */
	/* Short frames are padded, and the FCS is there where it is not stripped. */
	wr(R_RCTL, RCTL_EN);
	wire_send(machine, frame, 30);
	assert_int_equal(half(rx(4, 16) + 8), 64);
}

static void extended_descriptors(void **state)
{
	uint8_t frame[2000];
	size_t size = make_ipv4(frame, true, 900);

	start_receive(0, 16);
	wr(R_RFCTL, RFCTL_EXTEN);
	wr(R_RXCSUM, RXCSUM_IPOFLD | RXCSUM_TUOFLD);
	wire_send(machine, frame, size);
	assert_int_equal(word(rx(0, 16) + 8), 0x63); /* DD, EOP, TCPCS, IPCS */
	assert_int_equal(half(rx(0, 16) + 12), size);
	assert_int_equal(half(rx(0, 16) + 4), 0x1234); /* the IP identification */
	frame[100] ^= 0x80;
	wire_send(machine, frame, size);
	assert_int_equal(word(rx(1, 16) + 8), 0x20000063);
}

static void frames_over_several_descriptors(void **state)
{
	static uint8_t frame[2000];
	size_t size = make_ipv4(frame, true, 900);

	start_receive(3u << 16, 16); /* buffers of 256 bytes */
	wire_send(machine, frame, size);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 4);
	for (unsigned i = 0; i < 4; i++) {
		size_t part = i < 3 ? 256 : size - 768;

		assert_int_equal(half(rx(i, 16) + 8), part);
		assert_int_equal(rx(i, 16)[12] & 3, i < 3 ? 1 : 3);
		assert_memory_equal(memory_at(machine, RX_DATA + RX_STEP * i), frame + 256 * i, part);
	}
}

static void split_descriptors(void **state)
{
	static uint8_t frame[9100];
	size_t size = make_ipv4(frame, true, 8900);

	wr(R_RFCTL, RFCTL_EXTEN);
	wr(R_PSRCTL, 2 | 4 << 8 | 4 << 16 | 4 << 24); /* 256 bytes, three of 4 KiB */
	start_receive(RCTL_DTYP_PS | RCTL_LPE, 32);
	wire_send(machine, frame, size);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 2); /* in units of 16 bytes */
	assert_int_equal(half(rx(0, 32) + 12), 54);
	assert_int_equal(half(rx(0, 32) + 16), 0x8000 | 54);
	assert_int_equal(half(rx(0, 32) + 18), 4096);
	assert_int_equal(half(rx(0, 32) + 20), 4096);
	assert_int_equal(half(rx(0, 32) + 22), 8900 - 8192);
	assert_int_equal(word(rx(0, 32) + 8) & 3, 3);
	assert_memory_equal(memory_at(machine, RX_DATA), frame, 54);
	for (unsigned i = 0; i < 3; i++)
		assert_memory_equal(memory_at(machine, RX_DATA + RX_STEP / 4 * (i + 1)),
		                    frame + 54 + 4096 * i, i < 2 ? 4096 : 708);
	/* Where there is no header to split off the first buffer is filled. */
	memset(frame + 12, 0x55, 1000);
	wire_send(machine, frame, 1000);
	assert_int_equal(half(rx(1, 32) + 12), 256);
	assert_int_equal(half(rx(1, 32) + 18), 744);
}

static void frames_wait_for_descriptors(void **state)
{
	uint8_t frame[200];
	size_t size = make_ipv4(frame, false, 50);

	start_receive(0, 16);
	wr(R_RX_RING + RING_TAIL, 2);
	for (unsigned i = 0; i < 5; i++)
		wire_send(machine, frame, size);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 2);
	assert_int_equal(rd(R_STATISTICS + 0xa0), 1); /* RNBC */
	wr(R_RX_RING + RING_TAIL, 40);
	pass(machine, 1000000);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 5);
	/* A driver that goes away makes room too: nothing is kept for the next one. */
	wr(R_RX_RING + RING_TAIL, 5);
	wire_send(machine, frame, size);
	wr(R_RCTL, 0);
	pass(machine, 1000000);
	wr(R_RX_RING + RING_TAIL, 40);
	wr(R_RCTL, RCTL_EN);
	pass(machine, 1000000);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 5);
}

static void few_descriptors_are_told(void **state)
{
	uint8_t frame[200];
	size_t size = make_ipv4(frame, false, 50);

	start_receive(1u << 8, 16); /* a quarter of 64 */
	wr(R_RX_RING + RING_TAIL, 18);
	wire_send(machine, frame, size);
	assert_int_equal(rd(R_ICR) & CAUSE_RXDMT0, 0);
	wire_send(machine, frame, size);
	assert_int_equal(rd(R_ICR) & CAUSE_RXDMT0, CAUSE_RXDMT0);
	wire_send(machine, frame, size);
	assert_int_equal(rd(R_ICR) & CAUSE_RXDMT0, 0);
}

static bool accepts(const uint8_t *destination)
{
	uint8_t frame[200];
	size_t size = make_ipv4(frame, false, 50);
	uint32_t before = rd(R_RX_RING + RING_HEAD);

	memcpy(frame, destination, 6);
	wr(R_RX_RING + RING_TAIL, (before + RING - 1) % RING);
	wire_send(machine, frame, size);
	return rd(R_RX_RING + RING_HEAD) != before;
}

static void addresses_are_filtered(void **state)
{
	static const uint8_t broadcast[6] = {255, 255, 255, 255, 255, 255},
	                     other[6] = {0x52, 0x4e, 1, 2, 3, 4};
	static const uint8_t group[6] = {0x01, 0x00, 0x5e, 0x11, 0x32, 0xf4};
	unsigned place = (0xf432 >> 4) & 0xfff;

	start_receive(0, 16);
	assert_true(accepts(card_mac));
	assert_false(accepts(other));
	assert_false(accepts(broadcast));
	assert_false(accepts(group));
	wr(R_RCTL, RCTL_EN | RCTL_BAM);
	assert_true(accepts(broadcast));
	wr(R_RCTL, RCTL_EN | RCTL_UPE);
	assert_true(accepts(other));
	assert_false(accepts(group));
	wr(R_RCTL, RCTL_EN | RCTL_MPE);
	assert_true(accepts(group));
	assert_false(accepts(other));
	wr(R_RCTL, RCTL_EN);
	wr(R_MTA + 4 * (place >> 5), 1u << (place & 31));
	assert_true(accepts(group));
	wr(R_RCTL, RCTL_EN | 3u << 12); /* other bits of the address */
	assert_false(accepts(group));
	wr(R_RCTL, RCTL_EN);
	wr(R_RA + 8 * 15, 0x02014e52);
	wr(R_RA + 8 * 15 + 4, 0x0403);
	assert_false(accepts(other));
	wr(R_RA + 8 * 15 + 4, 0x80000403);
	assert_true(accepts(other));
}

static void vlans_are_filtered_and_stripped(void **state)
{
	uint8_t frame[200], tagged[204];
	size_t size = make_ipv4(frame, false, 50);

	memcpy(tagged, frame, 12);
	put_be16(tagged + 12, 0x8100);
	put_be16(tagged + 14, 0x6005);
	memcpy(tagged + 16, frame + 12, size - 12);
	start_receive(RCTL_VFE, 16);
	wire_send(machine, tagged, size + 4);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 0);
	wr(R_VFTA, 1u << 5);
	wire_send(machine, tagged, size + 4);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 1);
	assert_memory_equal(memory_at(machine, RX_DATA), tagged, size + 4);
	wr(R_CTRL, CTRL_SLU | CTRL_VME);
	wire_send(machine, tagged, size + 4);
	assert_memory_equal(memory_at(machine, RX_DATA + RX_STEP), frame, size);
	assert_int_equal(half(rx(1, 16) + 8), size);
	assert_int_equal(half(rx(1, 16) + 14), 0x6005);
	assert_true(rx(1, 16)[12] & 0x08); /* VP */
}

static void long_frames_need_lpe(void **state)
{
	static uint8_t frame[9400];
	size_t size = make_ipv4(frame, false, 1500);

	start_receive(0, 16);
	wire_send(machine, frame, size);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 0);
	assert_int_equal(rd(R_STATISTICS + 0xac), 1); /* ROC */
	wire_send(machine, frame, 1514);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 1);
	wr(R_RCTL, RCTL_EN | RCTL_LPE | RCTL_BSEX | 1u << 16); /* 16 KiB */
	wire_send(machine, frame, 9230);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 2);
	wire_send(machine, frame, 9231);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 2);
}

/* Microsoft's verification suite for the Toeplitz hash. */
static void rss_hashes_and_queues(void **state)
{
	static const uint8_t key[40] = {0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67,
	                                0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb,
	                                0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
	                                0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};
	uint8_t frame[200];
	size_t size = make_ipv4(frame, true, 50);

	for (unsigned i = 0; i < 10; i++)
		wr(R_RSSRK + 4 * i, word(key + 4 * i));
	start_receive(0, 16);
	wr(R_RFCTL, RFCTL_EXTEN);
	wr(R_RXCSUM, RXCSUM_PCSD);
	wr(R_MRQC, 0x00030001);
	wire_send(machine, frame, size);
	assert_int_equal(word(rx(0, 16)) & 15, 1);
	assert_int_equal(word(rx(0, 16) + 4), 0x51ccc178);
	wr(R_MRQC, 0x00020001);
	wire_send(machine, frame, size);
	assert_int_equal(word(rx(1, 16)) & 15, 2);
	assert_int_equal(word(rx(1, 16) + 4), 0x323e8fc2);
	/* The table sends this hash to the second queue. */
	wr(R_RETA + (0x42 & ~3u), 0x80u << 8 * (0x42 & 3));
	wr(R_RX_RING + 0x100 + RING_BAL, RX_RING + 0x2000);
	wr(R_RX_RING + 0x100 + RING_LEN, RING * 16);
	memcpy(memory_at(machine, RX_RING + 0x2000), (uint64_t[]){RX_DATA + 0x80000}, 8);
	wr(R_RX_RING + 0x100 + RING_TAIL, 8);
	wire_send(machine, frame, size);
	assert_int_equal(rd(R_RX_RING + 0x100 + RING_HEAD), 1);
	assert_memory_equal(memory_at(machine, RX_DATA + 0x80000), frame, size);
}

static void loopback_brings_frames_back(void **state)
{
	uint8_t frame[200], got[200];
	size_t size = make_ipv4(frame, false, 50);

	start_transmit();
	start_receive(0, 16);
	phy_write(0, 0x4140);
	memcpy(memory_at(machine, TX_DATA), frame, size);
	put_tx(TX_DATA, (uint32_t)size | 0x09000000, 0);
	kick();
	assert_memory_equal(memory_at(machine, RX_DATA), frame, size);
	assert_int_equal(rd(R_RX_RING + RING_HEAD), 1);
	assert_int_equal(wire_receive(machine, got, sizeof(got)), -1);
}

static void receive_counts(void **state)
{
	uint8_t frame[200];
	size_t size = make_ipv4(frame, false, 50);

	start_receive(RCTL_MPE | RCTL_BAM, 16);
	wire_send(machine, frame, size);
	frame[0] |= 1;
	wire_send(machine, frame, size);
	memset(frame, 0xff, 6);
	wire_send(machine, frame, size);
	assert_int_equal(rd(R_STATISTICS + 0x74), 3); /* GPRC */
	assert_int_equal(rd(R_STATISTICS + 0x7c), 1); /* MPRC */
	assert_int_equal(rd(R_STATISTICS + 0x78), 1); /* BPRC */
	assert_int_equal(rd(R_STATISTICS + 0x88), 3 * (size + 4));
	assert_int_equal(rd(R_STATISTICS + 0x60), 3); /* PRC127 */
	assert_int_equal(rd(R_STATISTICS + 0xd0), 3); /* TPR */
}

/* ---- interrupts ---- */

/* The level of the card's pin, as configuration space shows it. */
static bool intx(void)
{
	return config_read(machine, 6, 2) & 8;
}

static void causes_and_masks(void **state)
{
	wr(R_ICS, CAUSE_RXT0);
	assert_false(intx());
	wr(R_IMS, CAUSE_RXT0 | CAUSE_LSC);
	assert_true(intx());
	assert_int_equal(rd(R_IMS), CAUSE_RXT0 | CAUSE_LSC);
	wr(R_IMC, CAUSE_RXT0);
	assert_false(intx());
	/* Not asserted, and not all masked: reading changes nothing. */
	assert_int_equal(rd(R_ICR), CAUSE_RXT0);
	assert_int_equal(rd(R_ICR), CAUSE_RXT0);
	wr(R_ICS, CAUSE_LSC);
	assert_true(intx());
	assert_int_equal(rd(R_ICR), CAUSE_ASSERTED | CAUSE_LSC | CAUSE_RXT0);
	assert_false(intx());
	assert_int_equal(rd(R_ICR), 0);
	wr(R_ICS, CAUSE_LSC);
	wr(R_ICR, CAUSE_LSC); /* writing ones clears */
	assert_false(intx());
	/* Auto mask. */
	wr(R_IAM, CAUSE_LSC);
	wr(R_CTRL_EXT, CTRL_EXT_IAME);
	wr(R_ICS, CAUSE_LSC);
	rd(R_ICR);
	assert_int_equal(rd(R_IMS), 0);
}

static void enable_msix(void)
{
	unsigned at = find_capability(machine, 0x11);

	assert_int_not_equal(at, 0);
	assert_int_equal((config_read(machine, at + 2, 2) & 0x7ff) + 1, 5);
	for (unsigned i = 0; i < 5; i++) {
		store(machine, BAR_X + 16 * i, 4, 0xfee00000);
		store(machine, BAR_X + 16 * i + 4, 4, 0);
		store(machine, BAR_X + 16 * i + 8, 4, 0x40 + i);
		store(machine, BAR_X + 16 * i + 12, 4, 0);
	}
	config_write(machine, at + 2, 2, 0x8000);
	fake_vm.msi_count = 0;
}

static void msix_vectors_by_ivar(void **state)
{
	enable_msix();
	wr(R_IVAR, 0x8 | 1 << 0 | 0xau << 8 | 0xbu << 16); /* RXQ0: 1, TXQ0: 2, other: 3 */
	wr(R_EIAC, CAUSE_RXQ0 | CAUSE_TXQ0);
	wr(R_CTRL_EXT, CTRL_EXT_EIAME);
	wr(R_IMS, CAUSE_RXQ0 | CAUSE_TXQ0 | CAUSE_OTHER | CAUSE_LSC);
	wr(R_ICS, CAUSE_RXQ0);
	assert_int_equal(fake_vm.msi_count, 1);
	assert_int_equal(fake_vm.msi_data[0], 0x41);
	/* It cleared and masked its own cause. */
	assert_int_equal(rd(R_IMS) & CAUSE_RXQ0, 0);
	wr(R_ICS, CAUSE_RXQ0);
	assert_int_equal(fake_vm.msi_count, 1);
	wr(R_IMS, CAUSE_RXQ0);
	assert_int_equal(fake_vm.msi_count, 2);
	wr(R_ICS, CAUSE_LSC); /* an other cause */
	assert_int_equal(fake_vm.msi_count, 3);
	assert_int_equal(fake_vm.msi_data[2], 0x43);
	assert_int_equal(rd(R_ICR) & (CAUSE_OTHER | CAUSE_LSC), CAUSE_OTHER | CAUSE_LSC);
	assert_false(intx());
}

static void throttle_holds_interrupts_back(void **state)
{
	enable_msix();
	wr(R_IVAR, 0x9);
	wr(R_EIAC, CAUSE_RXQ0);
	wr(R_EITR + 4, 1000); /* 256 us */
	wr(R_IMS, CAUSE_RXQ0);
	wr(R_ICS, CAUSE_RXQ0);
	assert_int_equal(fake_vm.msi_count, 1);
	wr(R_ICS, CAUSE_RXQ0);
	pass(machine, 200000);
	assert_int_equal(fake_vm.msi_count, 1);
	pass(machine, 100000);
	assert_int_equal(fake_vm.msi_count, 2);
	pass(machine, 1000000);
	assert_int_equal(fake_vm.msi_count, 2);
}

static void msi_tells_of_new_causes(void **state)
{
	unsigned at = find_capability(machine, 5);

	assert_int_not_equal(at, 0);
	config_write(machine, at + 4, 4, 0xfee00000);
	config_write(machine, at + 8, 4, 0);
	config_write(machine, at + 12, 2, 0x55);
	config_write(machine, at + 2, 2, 1);
	fake_vm.msi_count = 0;
	wr(R_IMS, CAUSE_RXT0 | CAUSE_TXDW);
	wr(R_ICS, CAUSE_RXT0);
	wr(R_ICS, CAUSE_RXT0);
	assert_int_equal(fake_vm.msi_count, 1);
	wr(R_ICS, CAUSE_TXDW);
	assert_int_equal(fake_vm.msi_count, 2);
	rd(R_ICR);
	wr(R_ICS, CAUSE_RXT0);
	assert_int_equal(fake_vm.msi_count, 3);
	assert_int_equal(fake_vm.msi_data[2], 0x55);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(nvm_holds_the_address_and_a_checksum),
	    TEST(phy_answers_by_mdic),
	    TEST(link_follows_the_phy_and_the_wire),
	    TEST(resets_and_semaphores),
	    TEST(registers_through_ports),
	    TEST(table_is_sorted_and_reset_is_whole),
	    TEST(system_time_runs_at_25_mhz),
	    TEST(legacy_frames_go_out),
	    TEST(checksums_are_inserted),
	    TEST(large_packets_are_segmented_and_tagged),
	    TEST(transmit_counts),
	    TEST(hostile_transmit_rings),
	    TEST(long_rings_are_finished),
	    TEST(legacy_descriptors),
	    TEST(extended_descriptors),
	    TEST(frames_over_several_descriptors),
	    TEST(split_descriptors),
	    TEST(frames_wait_for_descriptors),
	    TEST(few_descriptors_are_told),
	    TEST(addresses_are_filtered),
	    TEST(vlans_are_filtered_and_stripped),
	    TEST(long_frames_need_lpe),
	    TEST(rss_hashes_and_queues),
	    TEST(loopback_brings_frames_back),
	    TEST(receive_counts),
	    TEST(causes_and_masks),
	    TEST(msix_vectors_by_ivar),
	    TEST(throttle_holds_interrupts_back),
	    TEST(msi_tells_of_new_causes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
