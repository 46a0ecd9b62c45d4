/*
 * What a guest that was started without firmware still expects of one: interrupt vectors that lead somewhere,
 * the BIOS data area, the tables.
 */
#include <string.h>

#include "boot/loader.h"

/* BIOS data area. */
#define BDA_COM_PORTS  0x400
#define BDA_EBDA       0x40e
#define BDA_EQUIPMENT  0x410
#define BDA_BASE_KIB   0x413
#define BDA_VIDEO_MODE 0x449
#define BDA_COLUMNS    0x44a
#define BDA_CRTC_PORT  0x463
#define BDA_ROWS       0x484
#define BDA_CHARACTER  0x485

/* Stubs at the addresses of old, inside the SMBIOS claim's last page. */
#define STUB_SEGMENT 0xf000u
#define STUB_IRET    0xff53u
#define STUB_CALL    0xff54u

int firmware_claim(struct loader *loader)
{
	static const struct {
		uint32_t gpa, size;
		const char *what;
	} part[] = {
	    {LOW_BIOS_DATA, LOW_BIOS_DATA_SIZE, "BIOS data area"},
	    {LOW_EBDA, LOW_EBDA_SIZE, "extended BIOS data area"},
	    {LOW_ACPI, LOW_ACPI_SIZE, "ACPI tables"},
	    {LOW_SMBIOS, LOW_SMBIOS_SIZE, "SMBIOS tables"},
	};

	for (size_t i = 0; i < sizeof(part) / sizeof(part[0]); i++) {
		int status = layout_claim(&loader->layout, "the machine's RAM", part[i].what, part[i].gpa,
		                          part[i].size);

		if (status)
			return status;
	}
	return 0;
}

/*
 * A BIOS call returns with CF set and everything else as it was, which every caller reads as "not supported";
 * exceptions and hardware interrupts just return.
 */
static void write_vectors(struct loader *loader)
{
	/* push bp; mov bp,sp; or byte [bp+6],1 (CF in the FLAGS to return to); pop bp; iret */
	static const uint8_t call_stub[] = {0x55, 0x89, 0xe5, 0x80, 0x4e, 0x06, 0x01, 0x5d, 0xcf};
	uint8_t *low = layout_host(&loader->layout, LOW_BIOS_DATA, LOW_BIOS_DATA_SIZE);
	uint8_t *stub = layout_host(&loader->layout, LOW_SMBIOS, LOW_SMBIOS_SIZE);

	stub[STUB_IRET] = 0xcf;
	memcpy(stub + STUB_CALL, call_stub, sizeof(call_stub));
	for (unsigned vector = 0; vector < 256; vector++) {
		bool is_call = vector >= 0x10 && vector < 0x70;

		put_u32(low + 4 * vector, STUB_SEGMENT << 16 | (is_call ? STUB_CALL : STUB_IRET));
	}
}

static void write_bios_data(struct loader *loader)
{
	const struct boot_platform *platform = &loader->request->platform;
	uint8_t *low = layout_host(&loader->layout, LOW_BIOS_DATA, LOW_BIOS_DATA_SIZE);
	uint8_t *ebda = layout_host(&loader->layout, LOW_EBDA, LOW_EBDA_SIZE);
	unsigned ports = 0;

	memset(low + 0x400, 0, 0x200);
	memset(ebda, 0, LOW_EBDA_SIZE);
	ebda[0] = LOW_EBDA_SIZE >> 10;
	for (unsigned i = 0; i < BOOT_SERIAL_PORTS; i++)
		if (platform->serial[i].port)
			put_u16(low + BDA_COM_PORTS + 2 * ports++, platform->serial[i].port);
	put_u16(low + BDA_EBDA, LOW_EBDA >> 4);
	/* Equipment word: FPU, serial ports, and 80x25 colour where there is a VGA. */
	put_u16(low + BDA_EQUIPMENT, (uint16_t)(2 | ports << 9 | (platform->vga_text ? 0x20 : 0)));
	put_u16(low + BDA_BASE_KIB, LOW_EBDA >> 10);
	if (platform->vga_text) {
		low[BDA_VIDEO_MODE] = 3;
		put_u16(low + BDA_COLUMNS, 80);
		put_u16(low + BDA_CRTC_PORT, 0x3d4);
		low[BDA_ROWS] = 24;
		put_u16(low + BDA_CHARACTER, 16);
	}
}

int firmware_write(struct loader *loader)
{
	const struct guest_memory *memory = loader->layout.memory;
	uint8_t *acpi = layout_host(&loader->layout, LOW_ACPI, LOW_ACPI_SIZE);
	uint8_t *smbios = layout_host(&loader->layout, LOW_SMBIOS, LOW_SMBIOS_SIZE);
	int status;

	memset(acpi, 0, LOW_ACPI_SIZE);
	memset(smbios, 0, LOW_SMBIOS_SIZE);
	status = acpi_write(loader->request, memory, acpi, LOW_ACPI, LOW_ACPI_SIZE, NULL);
	if (!status)
		status =
		    smbios_write(loader->request, memory, smbios, LOW_SMBIOS, STUB_IRET & ~0xfffu, true);
	if (status < 0)
		return status;
	write_vectors(loader);
	write_bios_data(loader);
	return 0;
}
