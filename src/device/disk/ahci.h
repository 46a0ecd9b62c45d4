/*
 * The SATA controller's inner interface: ahci.c has the registers, ahci_command.c moves commands and FISes between
 * guest memory and a drive, ata.c and atapi.c are the drives. Everything runs under the machine lock. Rules: Serial ATA
 * AHCI 1.3.1; Serial ATA 2.6 for FISes; ATA8-ACS; SPC-3 and MMC-5.
 */
#ifndef NESTOR_DEVICE_AHCI_H
#define NESTOR_DEVICE_AHCI_H

#include "device/disk/disk.h"
#include "device/pci/pci.h"

#define AHCI_PORTS 6
#define AHCI_SLOTS 32

/* Status and error registers of ATA. */
#define ATA_BSY  0x80
#define ATA_DRDY 0x40
#define ATA_DF   0x20
#define ATA_DSC  0x10
#define ATA_DRQ  0x08
#define ATA_ERR  0x01
#define ATA_GOOD (ATA_DRDY | ATA_DSC)

#define ATA_ERROR_UNC  0x40
#define ATA_ERROR_IDNF 0x10
#define ATA_ERROR_ABRT 0x04

/* "Port x Interrupt Status" */
#define AHCI_IS_DHR  (1u << 0)
#define AHCI_IS_PS   (1u << 1)
#define AHCI_IS_DS   (1u << 2)
#define AHCI_IS_SDB  (1u << 3)
#define AHCI_IS_DP   (1u << 5)
#define AHCI_IS_PC   (1u << 6)
#define AHCI_IS_PRC  (1u << 22)
#define AHCI_IS_OF   (1u << 24)
#define AHCI_IS_INF  (1u << 26)
#define AHCI_IS_IF   (1u << 27)
#define AHCI_IS_HBD  (1u << 28)
#define AHCI_IS_HBF  (1u << 29)
#define AHCI_IS_TFE  (1u << 30)

/* "Port x Command and Status" */
#define AHCI_CMD_ST    (1u << 0)
#define AHCI_CMD_SUD   (1u << 1)
#define AHCI_CMD_POD   (1u << 2)
#define AHCI_CMD_CLO   (1u << 3)
#define AHCI_CMD_FRE   (1u << 4)
#define AHCI_CMD_FR    (1u << 14)
#define AHCI_CMD_CR    (1u << 15)
#define AHCI_CMD_ATAPI (1u << 24)
#define AHCI_CMD_DLAE  (1u << 25)

struct ahci_port;

/* How a command moves its data: which FISes the guest sees. */
enum ata_protocol { ATA_NO_DATA, ATA_PIO_IN, ATA_PIO_OUT, ATA_DMA, ATA_NCQ, ATA_PACKET };

/* One slot of a port's command list, while its command is executed. */
struct ahci_command {
	struct ahci_port *port;
	uint8_t slot;
	bool active;
	uint64_t header; /* guest-physical */
	uint64_t table;
	uint8_t fis[64], packet[16];
	unsigned prd_count;
	enum ata_protocol protocol;

	struct disk_request request;
	struct disk_segment *segment; /* owned */
	unsigned segment_count;
	uint64_t moved; /* bytes of data, for PRDBC */

	/* ata.c's: what a TRIM still has to do, in the data that the guest sent. */
	uint8_t *ranges; /* owned */
	unsigned range_count, range_next;
};

/* What a command leaves in the drive's registers. */
struct ata_result {
	uint8_t status, error, device;
	uint16_t count;
	uint64_t lba;
};

/* A drive's own state; a hardware reset brings back the defaults. */
struct ata_drive {
	bool write_cache, look_ahead, smart;
	uint8_t multiple; /* sectors per DRQ block of READ MULTIPLE, 0: not set */
	uint8_t transfer_mode;
	bool ncq_failed; /* log 10h has something to tell */
	uint8_t ncq_tag;
	struct ata_result ncq_result;
};

struct atapi_drive {
	bool locked, ejected;
	uint8_t attention; /* the additional sense code of a pending unit attention, 0: none */
	uint8_t sense_key, asc, ascq;
	uint8_t events; /* what GET EVENT STATUS NOTIFICATION has not told yet: ATAPI_EVENT_* */
};

/* "Media Events": told one at a time, in this order. */
#define ATAPI_EVENT_EJECT_REQUEST (1u << 1)
#define ATAPI_EVENT_REMOVAL       (1u << 2)
#define ATAPI_EVENT_NEW_MEDIUM    (1u << 3)

struct ahci_port {
	struct ahci *ahci;
	uint8_t number;
	struct disk *disk; /* owned; NULL: nothing is connected */
	unsigned drive; /* its place among machine_config.disk */
	bool cdrom;
	struct ata_drive ata;
	struct atapi_drive atapi;

	/* Registers. */
	uint64_t clb, fb;
	uint32_t is, ie, cmd, tfd, sig, ssts, sctl, serr, sact, ci;

	uint32_t issued;  /* slots that have been fetched and are not yet done */
	uint32_t queued;  /* of them, NCQ commands */
	bool busy;        /* with a command that is not queued */
	bool halted;      /* by an error, until ST is cleared */
	bool in_reset;    /* SRST is set */
	bool running;     /* ahci_run is at work */
	uint8_t next_slot;
	struct ahci_command command[AHCI_SLOTS];
};

struct ahci {
	struct machine *machine;
	struct pci_function function;
	uint32_t ghc, is;
	struct ahci_port port[AHCI_PORTS];
};

/* ---- ahci.c ---- */

/* Sets bits of the port's interrupt status and interrupts where they are enabled. */
void ahci_raise(struct ahci_port *port, uint32_t bits);

/* ---- ahci_command.c ---- */

/* Fetches and starts commands as far as the port can take them. */
void ahci_run(struct ahci_port *port);
/* Forgets every command under way, once its I/O has ended. */
void ahci_abandon(struct ahci_port *port);
/* The drive's first FIS after a reset: its signature. */
void ahci_send_signature(struct ahci_port *port);
/* Frees what the slots own. */
void ahci_release_commands(struct ahci_port *port);

/* The drive takes an NCQ command into its queue: it is not busy with it, and the slot is free for the guest. */
void ahci_accept_queued(struct ahci_command *command);

/* For the drives: a command's end, by its protocol: FISes, registers, interrupt, and the next command. */
void ahci_finish(struct ahci_command *command, const struct ata_result *result);
/* The same where the controller could not reach guest memory: the port stops with a host bus fatal error. */
void ahci_fail_host(struct ahci_command *command);
/* The guest's buffer is too short for the command's data: overflow, and the command is aborted. */
void ahci_fail_overflow(struct ahci_command *command);

/*
 * Copies small data to or from the guest's buffer. Returns 0; -EFAULT or -ENOSPC, and then the command has ended (by the
 * two above) and must not be touched.
 */
int ahci_data_in(struct ahci_command *command, const void *data, uint32_t size);
int ahci_data_out(struct ahci_command *command, void *data, uint32_t size);

/*
 * Starts a disk request for `size` bytes at `offset` on the guest's buffer; completed() gets command->request. Where the
 * buffer is wrong the command ends here.
 */
void ahci_start_io(struct ahci_command *command, enum block_operation operation, uint64_t offset,
                   uint64_t size, bool durable, void (*completed)(struct disk_request *request, int result));
static inline struct ahci_command *ahci_command_of(struct disk_request *request)
{
	return request->context;
}

/* ---- ata.c, atapi.c ---- */

/* Both execute command->fis, now or later, and end it. A drive's reset: hard: as after power-up. */
void ata_execute(struct ahci_command *command);
void ata_reset(struct ahci_port *port, bool hard);
void atapi_execute(struct ahci_command *command);
void atapi_reset(struct ahci_port *port, bool hard);

/* The disc from outside (cdrom.h): whether the guest holds it, that it should let go, and that it has been exchanged. */
bool atapi_holds_disc(const struct ahci_port *port);
void atapi_request_eject(struct ahci_port *port);
void atapi_exchange(struct ahci_port *port, struct disk_medium *medium);

/* ata_identify.c: 512 bytes of IDENTIFY DEVICE, IDENTIFY PACKET DEVICE. */
void ata_identify(const struct ahci_port *port, uint16_t word[256]);
void atapi_identify(const struct ahci_port *port, uint16_t word[256]);

/* The registers as the command found them, with an outcome: status and error. */
struct ata_result ata_result_of(const struct ahci_command *command, uint8_t status, uint8_t error);
void ata_end(struct ahci_command *command, uint8_t status, uint8_t error);

#endif
