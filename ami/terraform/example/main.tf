# A whole cloud from one document: a VPC with the hub and its own NAT gateways, and two
# client VPCs, in one region and account. The same as ../../cloudformation/cloud.yaml.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.0" }
  }
}

provider "aws" {
  region = var.region
}

locals {
  clients = {
    client-a = "10.1.0.0/16"
    client-b = "10.2.0.0/16"
  }
}

module "hub_vpc" {
  source = "../vpc"
  name   = "hub"
  cidr   = "10.0.0.0/16"
  zones  = var.zones
}

module "hub" {
  source                  = "../hub"
  image_id                = var.hub_image_id
  instance_type           = var.hub_instance_type
  public_subnet_id        = module.hub_vpc.public_subnet_ids[0]
  private_route_table_ids = module.hub_vpc.private_route_table_ids
  regions                 = [var.region]
}

module "hub_nat" {
  source                  = "../spoke"
  name                    = "hub-nat"
  image_id                = var.spoke_image_id
  instance_type           = var.spoke_instance_type
  vpc_id                  = module.hub_vpc.vpc_id
  public_subnet_ids       = module.hub_vpc.public_subnet_ids
  private_route_table_ids = module.hub_vpc.private_route_table_ids
  transport               = "none"
  self_test_targets       = var.self_test_targets
  addresses               = var.addresses
}

module "client_vpc" {
  for_each = local.clients
  source   = "../vpc"
  name     = each.key
  cidr     = each.value
  zones    = var.zones
}

module "client_spokes" {
  for_each                = local.clients
  source                  = "../spoke"
  name                    = each.key
  image_id                = var.spoke_image_id
  instance_type           = var.spoke_instance_type
  vpc_id                  = module.client_vpc[each.key].vpc_id
  public_subnet_ids       = module.client_vpc[each.key].public_subnet_ids
  private_route_table_ids = module.client_vpc[each.key].private_route_table_ids
  hub_address             = module.hub.address
  hub_public_key          = var.hub_public_key
  self_test_targets       = var.self_test_targets
  addresses               = var.addresses
}
