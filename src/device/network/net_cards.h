/* The two models of network cards. */
#ifndef NESTOR_DEVICE_NET_CARDS_H
#define NESTOR_DEVICE_NET_CARDS_H

struct machine;

/* Each creates the card of machine_config.net[index]. Return 0, or a negative errno with error_text(). */
int virtio_net_create(struct machine *machine, unsigned index);
int e1000e_create(struct machine *machine, unsigned index);

/* Tells the firmware the card's place in its boot order. Returns 0 or a negative errno with error_text(). */
int net_card_boot_path(struct machine *machine, unsigned index, unsigned slot);

#endif
